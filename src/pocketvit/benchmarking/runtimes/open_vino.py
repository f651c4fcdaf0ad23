"""OpenVINO on the CPU; what is not in integers computes in float32."""

from __future__ import annotations

from pathlib import Path

from pocketvit.benchmarking.runtimes import Run
from pocketvit.deployment.openvino import open_compiled, version

__all__ = ["VERSION", "open_file", "open_in"]

VERSION = version()


def open_file(path: Path, *, threads: int) -> Run:
    """A file with one input; raises as `open_compiled`."""
    return open_in(path, threads=threads, precision="f32")


def open_in(path: Path, *, threads: int, precision: str) -> Run:
    """The same with float arithmetic in `precision`, `f32` or `bf16`; for one image at a time."""
    request = open_compiled(path, threads=threads, precision=precision).create_infer_request()
    return lambda images: request.infer([images])
