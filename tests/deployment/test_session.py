from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketvit.core.errors import CheckpointError
from pocketvit.deployment import OnnxFile
from pocketvit.deployment.session import open_session


def test_threads(exported: OnnxFile) -> None:
    options = open_session(exported.path, threads=3).get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        open_session(tmp_path / "model.onnx", threads=1)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n", b'{"a": 1}', b"\0" * 4096])
def test_another_format(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be opened as an ONNX model"):
        open_session(path, threads=1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.floats(0, 0.99))
def test_truncated(exported: OnnxFile, kept: float, tmp_path: Path) -> None:
    content = exported.path.read_bytes()
    model = onnx.load_from_string(content)
    model.ClearField("graph")  # a file that ends between two of the fields behind it is a valid one
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: int((len(content) - len(model.SerializeToString())) * kept)])
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        open_session(path, threads=1)


def test_running_a_file_does_not_load_torch() -> None:
    program = "import sys, pocketvit.deployment.session; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
