"""What runs an exported file: one module per runtime, each with an `open_file` that fits `OpenFile`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy import float32
from numpy.typing import NDArray

__all__ = ["RUNTIMES", "OpenFile", "Run", "Runtime"]

Run = Callable[[NDArray[float32]], Any]
"""Computes the logits of images (B, 3, S, S)."""


class OpenFile(Protocol):
    """Loads a file so that it can be run."""

    def __call__(self, path: Path, *, threads: int) -> Run:
        """The loaded file, computing on that many threads."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A runtime, by the module that speaks to it.

    Attributes:
        name: as in `RUNTIMES`.
        version: name and version, for result files.
        open_file: loads a file.
    """

    name: str
    version: str
    open_file: OpenFile

    @classmethod
    def load(cls, name: str) -> Runtime:
        """The runtime called `name`; only now is its library imported."""
        module = import_module(RUNTIMES[name])
        return cls(name, module.VERSION, module.open_file)


RUNTIMES = {
    "onnxruntime": "pocketvit.benchmarking.runtimes.onnx_runtime",
    "openvino": "pocketvit.benchmarking.runtimes.open_vino",
    "openvino_bf16": "pocketvit.benchmarking.runtimes.open_vino_bfloat16",
}
"""Modules by the name of the runtime."""
