from __future__ import annotations

import pytest

from pocketvit.core.errors import CheckpointError, UnknownNameError
from pocketvit.deployment.integer import export_integer
from pocketvit.deployment.openvino import has_openvino
from pocketvit.deployment.precision import precision_table

RUNTIMES = ["onnxruntime", *(["openvino"] if has_openvino() else [])]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_meet_integers_and_what_does_not_says_why(
    calibrated, captured, small_card, tmp_path, runtime
) -> None:
    path = tmp_path / "model.onnx"
    export_integer(calibrated(runtime=runtime), path, card=small_card)
    rows = {row.operator: row for row in precision_table(path, runtime=runtime)}
    assert set(rows) >= set(captured.operators)
    for name in ("depthwise", "query", "key", "head"):
        assert rows[name].precision == "int8", rows[name]
    assert rows["stem.0"].precision == ("float32" if runtime == "onnxruntime" else "int8")
    assert ("reads the image" in rows["stem.0"].reason) == (runtime == "onnxruntime")
    assert all(bool(row.reason) == (row.precision != "int8") for row in rows.values())


def test_what_the_runtime_wants_in_float_says_why(integer_file) -> None:
    rows = {row.kind: row for row in precision_table(integer_file.path)}
    assert rows["matmul"].precision == "float32"
    assert "attention in float" in rows["matmul"].reason
    assert rows["softmax"].precision == "float32"
    assert "scope" in rows["softmax"].reason


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_was_kept_in_float_is_told(calibrated, small_card, tmp_path, runtime) -> None:
    path = tmp_path / "model.onnx"
    export_integer(calibrated(keep_float=("depthwise",)), path, card=small_card)
    rows = {row.operator: row for row in precision_table(path, runtime=runtime)}
    assert rows["depthwise"].precision == "float32"
    assert "--keep-float" in rows["depthwise"].reason


def test_other_files_have_no_table(exported, integer_file, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not say"):
        precision_table(exported.path)
    with pytest.raises(CheckpointError, match="no file"):
        precision_table(tmp_path / "none.onnx")
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        precision_table(integer_file.path, runtime="onnxrumtime")
