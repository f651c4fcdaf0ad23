import json
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.data.transforms import eval_transform
from pocketvit.reporting.usage import onnx_snippet, predict_command

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def identity_model(path, size):
    """A file that returns its input, flattened: what the snippet calls logits is what it fed."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [0, -1])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["image", "shape"], ["logits"])],
        "identity",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3 * size * size])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {"classes": json.dumps([f"c{i}" for i in range(3 * size * size)])})
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("shape", "rules"),
    [
        ((97, 61), dict(size=32, interpolation="bicubic", crop=0.875, **IMAGENET)),
        ((50, 211), dict(size=32, interpolation="bilinear", crop=1.0, **PLAIN)),
        ((97, 61), dict(size=32, interpolation="bicubic", crop=1.0, crop_mode="squash", **IMAGENET)),
        ((40, 90), dict(size=24, interpolation="bilinear", crop=0.9, crop_mode="squash", **PLAIN)),
        ((8, 8), dict(size=64, interpolation="bicubic", crop=0.95, **IMAGENET)),
        ((333, 250), dict(size=48, interpolation="bilinear", crop=0.9, channels="bgr", **PLAIN)),
    ],
)
def test_the_snippet_feeds_exactly_what_the_model_was_evaluated_with(
    tmp_path, monkeypatch, capsys, shape, rules
):
    preprocessing = Preprocessing(**rules)
    monkeypatch.chdir(tmp_path)
    identity_model(tmp_path / "model.onnx", preprocessing.size)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    code = onnx_snippet("model.onnx", preprocessing).replace("photo.jpg", "photo.png")
    names: dict = {}
    exec(compile(code, "snippet", "exec"), names)
    expected = eval_transform(preprocessing)(Image.open("photo.png").convert("RGB")).numpy()
    np.testing.assert_allclose(names["logits"].reshape(expected.shape), expected, atol=2e-6)
    assert capsys.readouterr().out.strip() == f"c{int(expected.argmax())}"


def test_the_snippet_says_only_what_is_needed():
    plain = Preprocessing(size=32, interpolation="bilinear", crop=1.0, **PLAIN)
    assert "- np.float32" not in onnx_snippet("model.onnx", plain)
    assert "::-1" not in onnx_snippet("model.onnx", plain)
    assert "torch" not in sys.modules["pocketvit.reporting.usage"].__dict__


def test_predict_command():
    assert predict_command("model.onnx") == "pocketvit predict model.onnx photo.jpg"
