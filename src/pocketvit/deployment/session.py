"""Open a file in ONNX Runtime; needs neither torch nor any other part of pocketvit's layers."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from pocketvit.core.errors import CheckpointError

__all__ = ["RUNTIME", "open_session"]

RUNTIME = f"onnxruntime {ort.__version__}"
"""Name and version, for result files."""

_ERRORS_ONLY = 3  # severity; ONNX Runtime's warnings are notes to its own developers


def open_session(path: Path, *, threads: int) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Args:
        threads: how many work on one operator; operators run one after another.

    Raises:
        CheckpointError: the file is missing or no valid ONNX file.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base class below Exception
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be opened as an ONNX model: {reason}",
            fix="The file may be truncated or of another format; export or copy it again.",
        ) from error
