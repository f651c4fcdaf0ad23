"""How a stage is run once: what it computes from becomes a key, and the same key is never computed twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pocketvit.core.console import console
from pocketvit.core.rundir import RunDirectory

__all__ = ["key_of", "run_stage"]


def key_of(inputs: Mapping[str, Any]) -> str:
    """A short digest of everything a stage's result depends on."""
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(
    run: RunDirectory,
    name: str,
    work: Callable[[], None],
    *,
    key: str,
    writes: Sequence[str],
) -> None:
    """Run `work` unless this run already holds its result for the same `key`.

    Args:
        name: the stage, as recorded in `run.json`.
        work: computes the stage and writes its files.
        key: digest of all that the result depends on; see `key_of`.
        writes: files the stage leaves in the run directory.
    """
    if run.stage_is_done(name, key):
        console.print(f"[green]✓[/] {name}: already done, reused")
        return
    console.print(f"[bold]▸ {name}[/]")
    began = time.perf_counter()
    run.start_stage(name, key)
    work()
    run.finish_stage(name, key, seconds=time.perf_counter() - began, wrote=list(writes))
