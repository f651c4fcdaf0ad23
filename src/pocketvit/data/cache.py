"""Decoded pixels kept in memory, so that every image is decoded once and not once per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch

from pocketvit.core.console import progress_bar
from pocketvit.core.errors import DamagedImageError
from pocketvit.core.machine import usable_cores
from pocketvit.data.splits import ImageSplit, Problem
from pocketvit.data.transforms import Transform

__all__ = ["PixelCache", "default_cache_bytes", "fill_cache", "prepare"]

_PAGE = 1024  # images per block of memory
_CHUNK = 32  # images per task of a thread
_PROBES = 32  # images prepared to estimate the bytes of all


class PixelCache:
    """What `Transform.prepare` made of each image of a split: uint8 (3, h, w), sizes may differ.

    The pixels lie in a few large blocks. Loader processes that are forked share these with their parent,
    because nothing ever writes to them; processes that are spawned receive them through shared memory.
    """

    def __init__(self) -> None:
        self._pages: list[torch.Tensor] = []
        self._shapes: list[torch.Tensor] = []  # per page: (images, 3) of offset, height, width
        self._problems: dict[int, Problem] = {}

    def __getitem__(self, i: int) -> torch.Tensor:
        """Pixels of image `i`; not to be written to.

        Raises:
            DamagedImageError: it could not be decoded when the cache was filled.
        """
        if i in self._problems:
            problem = self._problems[i]
            raise DamagedImageError(f"{problem.key}: {problem.problem}")
        offset, height, width = self._shapes[i // _PAGE][i % _PAGE].tolist()
        flat = self._pages[i // _PAGE][offset : offset + 3 * height * width]
        return flat.view(height, width, 3).permute(2, 0, 1)

    @property
    def nbytes(self) -> int:
        """Bytes of pixels held."""
        return sum(page.numel() for page in self._pages)

    def append_page(self, images: Sequence[torch.Tensor | Problem]) -> None:
        """Add the next images; every page but the last holds the same number."""
        first = len(self._pages) * _PAGE
        flat: list[torch.Tensor] = []
        shapes: list[tuple[int, int, int]] = []
        offset = 0
        for i, image in enumerate(images, first):
            if isinstance(image, Problem):
                self._problems[i] = image
                shapes.append((offset, 0, 0))
                continue
            flat.append(image.permute(1, 2, 0).reshape(-1))
            shapes.append((offset, image.shape[1], image.shape[2]))
            offset += image.numel()
        self._pages.append(torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8))
        self._shapes.append(torch.tensor(shapes, dtype=torch.int64))


def default_cache_bytes() -> int:
    """A quarter of the memory that is free now."""
    return psutil.virtual_memory().available // 4


def prepare(split: ImageSplit, i: int, transform: Transform) -> torch.Tensor:
    """Image `i` after the deterministic half of `transform`: uint8 (3, h, w).

    Raises:
        DamagedImageError: it cannot be read or decoded.
    """
    return transform.prepare(split.load(i, at_least=transform.at_least))


def fill_cache(split: ImageSplit, transform: Transform, *, limit: int) -> PixelCache | None:
    """All of `split`, prepared by threads; None when it takes more than `limit` bytes."""
    if _estimate(split, transform) > limit:
        return None
    cache = PixelCache()

    def chunk(start: int, stop: int) -> list[torch.Tensor | Problem]:
        return [_prepared(split, i, transform) for i in range(start, stop)]

    with ThreadPoolExecutor(usable_cores()) as pool, progress_bar() as bar:
        task = bar.add_task("Decoding images", total=len(split))
        for first in range(0, len(split), _PAGE):
            last = min(first + _PAGE, len(split))
            starts = range(first, last, _CHUNK)
            stops = [min(start + _CHUNK, last) for start in starts]
            page = [image for images in pool.map(chunk, starts, stops) for image in images]
            cache.append_page(page)
            bar.advance(task, len(page))
            if cache.nbytes > limit:
                return None
    return cache


def _estimate(split: ImageSplit, transform: Transform) -> float:
    """Bytes of all images, from some that are spread over the split."""
    probes = range(0, len(split), max(len(split) // _PROBES, 1))
    images = [_prepared(split, i, transform) for i in probes]
    sizes = [image.numel() for image in images if isinstance(image, torch.Tensor)]
    return len(split) * sum(sizes) / max(len(sizes), 1)


def _prepared(split: ImageSplit, i: int, transform: Transform) -> torch.Tensor | Problem:
    try:
        return prepare(split, i, transform)
    except DamagedImageError as error:
        return Problem.of(split.key(i), error)
