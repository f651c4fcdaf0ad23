"""Open a file in OpenVINO, where it is installed (`pip install pocketvit[openvino]`)."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from pocketvit.core.errors import CheckpointError, ConfigError

__all__ = ["has_openvino", "open_compiled"]


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


def open_compiled(path: Path, *, threads: int) -> Any:
    """An `openvino.CompiledModel` on the CPU; what is not in integers computes in float32.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file is missing or no valid ONNX file.
    """
    if not has_openvino():
        raise ConfigError("OpenVINO is not installed.", fix="pip install 'pocketvit[openvino]'")
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    openvino: Any = importlib.import_module("openvino")  # not there for every type checker
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    try:
        return openvino.Core().compile_model(str(path), "CPU", settings)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path} cannot be opened in OpenVINO: {reason}") from error
