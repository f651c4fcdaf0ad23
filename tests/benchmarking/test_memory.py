from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pocketvit.benchmarking import memory
from pocketvit.benchmarking.memory import peak_memory
from pocketvit.core.errors import PocketvitError


def matrix_file(path: Path, megabytes: int) -> Path:
    """A file whose one weight, a matrix on 3·16·16 values, has that size."""
    columns = megabytes * 10**6 // (4 * 768)
    weight = np.ones((768, columns), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "matrix",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def test_weights_are_seen(tmp_path: Path) -> None:
    small = peak_memory(matrix_file(tmp_path / "1.onnx", 1), runtime="onnxruntime", threads=1, size=16)
    large = peak_memory(matrix_file(tmp_path / "100.onnx", 100), runtime="onnxruntime", threads=1, size=16)
    assert 1e6 < small < 40e6
    assert 100e6 < large < 450e6  # while loading, a runtime may hold the weights more than once


def test_the_parent_does_not_count(tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB in this process
    found = peak_memory(matrix_file(tmp_path / "1.onnx", 1), runtime="onnxruntime", threads=1, size=16)
    assert ballast.nbytes == 400_000_000
    assert found < 100e6


def test_a_failing_process_is_explained(tmp_path: Path) -> None:
    with pytest.raises(PocketvitError, match="There is no file"):
        peak_memory(tmp_path / "model.onnx", runtime="onnxruntime", threads=1, size=16)


def test_a_hanging_process_is_ended(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_TIMEOUT", 0.001)
    with pytest.raises(PocketvitError, match="took more than"):
        peak_memory(tiny_file, runtime="onnxruntime", threads=1, size=32)


def test_the_probe_holds_no_training_framework() -> None:
    program = (
        "import sys, pocketvit.benchmarking.memory as m; m.Runtime.load('onnxruntime'); "
        "print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
