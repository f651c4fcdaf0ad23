"""OpenVINO on the CPU in bfloat16, its own choice where the processor has it."""

from __future__ import annotations

from pathlib import Path

from pocketvit.benchmarking.runtimes import Run
from pocketvit.benchmarking.runtimes.open_vino import VERSION, open_in

__all__ = ["VERSION", "open_file"]


def open_file(path: Path, *, threads: int) -> Run:
    """A file with one input; raises as `open_compiled`."""
    return open_in(path, threads=threads, precision="bf16")
