"""Look at every image once: is it whole, what is it, which bytes is it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pocketvit.core.console import progress_bar
from pocketvit.core.errors import DamagedImageError
from pocketvit.core.machine import usable_cores
from pocketvit.data.decode import decode
from pocketvit.data.splits import ImageSplit, Problem

__all__ = ["Facts", "survey"]

_CHUNK = 64  # images per task: handing over one image at a time costs more than decoding a small one


@dataclass(frozen=True)
class Facts:
    """What one image was found to be."""

    digest: str
    """SHA-256 of its bytes; empty when they cannot be read."""
    size: tuple[int, int] | None = None
    """Width and height upright, in pixels; None when it was not decoded."""
    format: str = ""
    mode: str = ""
    problem: Problem | None = None


def survey(split: ImageSplit, *, decoding: bool = True, title: str = "Checking images") -> list[Facts]:
    """Facts about every image of `split`, in order; threads share the work.

    Args:
        decoding: False reads and hashes the bytes only.
        title: what the progress bar says.
    """
    chunks = [range(start, min(start + _CHUNK, len(split))) for start in range(0, len(split), _CHUNK)]
    facts: list[Facts] = []

    def look_at(chunk: Sequence[int]) -> list[Facts]:
        return [_facts(split, i, decoding) for i in chunk]

    with ThreadPoolExecutor(usable_cores()) as pool, progress_bar() as bar:
        task = bar.add_task(title, total=len(split))
        for found in pool.map(look_at, chunks):
            facts += found
            bar.advance(task, len(found))
    return facts


def _facts(split: ImageSplit, i: int, decoding: bool) -> Facts:
    key, digest = split.key(i), ""
    try:
        content = split.content(i)
        digest = hashlib.sha256(content).hexdigest()
        if not decoding:
            return Facts(digest)
        decoded = decode(content, name=key)
    except DamagedImageError as error:
        return Facts(digest, problem=Problem.of(key, error))
    return Facts(digest, size=decoded.image.size, format=decoded.format, mode=decoded.mode)
