from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pocketvit
from pocketvit.core.errors import CheckpointError
from pocketvit.deployment.onnx import export_onnx
from pocketvit.deployment.openvino import has_openvino, open_compiled

pytestmark = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is an extra that CI does not install")


@pytest.mark.parametrize("batch", [1, 3, None])
def test_the_number_of_images_is_fixed_where_it_is_known(exported, batch) -> None:
    compiled = open_compiled(exported.path, threads=1, batch=batch)
    (first, *rest) = compiled.input(0).partial_shape
    assert first.is_dynamic == (batch is None)
    assert [int(str(length)) for length in rest] == [3, 32, 32]
    images = np.random.default_rng(0).standard_normal((batch or 2, 3, 32, 32), np.float32)
    assert compiled([images])[0].shape == (batch or 2, 3)


def test_no_file_no_valid_file(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="There is no file"):
        open_compiled(tmp_path / "model.onnx", threads=1)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be opened in OpenVINO"):
        open_compiled(tmp_path / "model.onnx", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mobile_former_26m",
        "mobilevit_xxs",
        "mobilevitv2_050",
        "swiftformer_xs",
        "cas_vit_xs",
        "efficientformerv2_s0",
    ],
)
def test_the_same_image_gets_the_same_answer_again(name, card, tmp_path) -> None:
    model = pocketvit.create_model(name, num_classes=len(card.classes)).eval()
    sized = replace(card, preprocessing=replace(card.preprocessing, size=64))
    export_onnx(model, tmp_path / "model.onnx", card=sized)
    request = open_compiled(tmp_path / "model.onnx", threads=1).create_infer_request()
    images = np.random.default_rng(0).standard_normal((2, 1, 3, 64, 64), np.float32)
    first = [np.array(request.infer([image])[0]) for image in images]
    again = [np.array(request.infer([image])[0]) for image in images]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(*first)
