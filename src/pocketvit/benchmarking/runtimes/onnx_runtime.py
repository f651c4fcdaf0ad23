"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

from pocketvit.benchmarking.runtimes import Run
from pocketvit.deployment.session import RUNTIME as VERSION
from pocketvit.deployment.session import open_session

__all__ = ["VERSION", "open_file"]


def open_file(path: Path, *, threads: int) -> Run:
    """An ONNX file with one input; raises `CheckpointError` as `open_session`."""
    session = open_session(path, threads=threads)
    (image,) = session.get_inputs()
    return lambda images: session.run(None, {image.name: images})
