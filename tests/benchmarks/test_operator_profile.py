from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper


def two_products(path: Path) -> Path:
    """A convolution 3×3, relu, the mean over the pixels, a classifier."""
    arrays = {"kernel": np.ones((16, 3, 3, 3), np.float32), "matrix": np.ones((16, 5), np.float32)}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["x"], name="first"),
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("ReduceMean", ["y", "pixels"], ["z"], name="mean", keepdims=0),
        helper.make_node("MatMul", ["z", "matrix"], ["logits"], name="second"),
    ]
    weights.append(numpy_helper.from_array(np.array([2, 3]), "pixels"))
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("image", [4, 3, 16, 16]), ("logits", [4, 5]))
    )
    graph = helper.make_graph(nodes, "graph", [image], [logits], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nodes_are_counted_by_type(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    script = import_module("operator_profile")
    path = two_products(tmp_path / "model.onnx")
    profile = script.PROFILERS[runtime](path, np.ones((4, 3, 16, 16), np.float32), threads=1, runs=3)
    assert sum(entry["calls"] for kind, entry in profile.items() if kind in script.PRODUCTS) == 2
    assert all(entry["us"] >= 0 for entry in profile.values())


def test_warm_up_is_left_out_and_medians_are_added() -> None:
    script = import_module("operator_profile")
    runs = [900.0] * script.WARM_UP + [1.0, 2.0, 9.0]
    timings = [(node, "Conv", us) for us in runs for node in ("one", "two")]
    assert script._by_type(timings) == {"Conv": {"calls": 2, "us": 4.0}}


def test_what_ran_only_at_the_beginning_is_left_out() -> None:
    script = import_module("operator_profile")
    timings = [("one", "Conv", 1.0)] * (script.WARM_UP + 1) + [("fold", "Reshape", 5.0)]
    assert script._by_type(timings) == {"Conv": {"calls": 1, "us": 1.0}}


def test_table_has_both_sides_and_their_sums() -> None:
    script = import_module("operator_profile")
    before = {"Conv": {"calls": 2, "us": 60.0}, "Transpose": {"calls": 3, "us": 40.0}}
    after = {"Conv": {"calls": 2, "us": 60.0}}
    lines = [line.split() for line in script.profile_table(before, after).splitlines()]
    assert lines[1] == ["Conv", "2", "60", "2", "60"]
    assert lines[2] == ["Transpose", "3", "40", "0", "0"]
    assert lines[3] == ["all", "100", "60"]
    assert lines[4][-2:] == ["60%", "100%"]
    assert script.products_share(before) == pytest.approx(0.6)
