"""Open a file in OpenVINO, where it is installed (`pip install pocketvit[openvino]`)."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from pocketvit.core.errors import CheckpointError, ConfigError

__all__ = ["has_bfloat16", "has_openvino", "open_compiled", "require_openvino", "version"]


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


def require_openvino() -> None:
    """Stop where it is not installed.

    Raises:
        ConfigError: says how to install it.
    """
    if not has_openvino():
        raise ConfigError("OpenVINO is not installed.", fix="pip install 'pocketvit[openvino]'")


def version() -> str:
    """Name and version, for result files."""
    return f"OpenVINO {importlib.metadata.version('openvino')}"


def has_bfloat16() -> bool:
    """Whether OpenVINO is installed and computes in bfloat16 on this processor, by default then."""
    if not has_openvino():
        return False
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@cache
def _core() -> Any:
    """One for the whole process: each `openvino.Core` loads the CPU plugin, and unloads it when it goes."""
    openvino: Any = importlib.import_module("openvino")  # not there for every type checker
    return openvino.Core()


def open_compiled(path: Path, *, threads: int, precision: str = "f32", batch: int | None = 1) -> Any:
    """An `openvino.CompiledModel` on the CPU.

    By itself OpenVINO would round what products in float with stored integers read (Mobile-Former) to 8 bits.

    Args:
        precision: of what is not in integers: `f32` or `bf16`.
        batch: how many images it will get in a call, always. For shapes it knows, OpenVINO chooses faster
            kernels, for integers above all. `None` leaves that open, as the file does.

    Raises:
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file is missing or no valid ONNX file.
    """
    require_openvino()
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    try:
        model = _core().read_model(str(path))
        if batch is not None:
            _, *image = model.input(0).partial_shape
            model.reshape([batch, *image])
        return _core().compile_model(model, "CPU", settings)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if not line.startswith("Exception from")]  # places in OpenVINO's code
        reason = (told or lines)[0]
        raise CheckpointError(f"{path} cannot be opened in OpenVINO: {reason}") from error
