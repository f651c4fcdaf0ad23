from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from pocketvit.deployment.attention import fuse_attention
from pocketvit.deployment.inference_modules import SplitSoftmaxAttention
from pocketvit.deployment.onnx import frozen_copy, trace
from pocketvit.mixers.softmax import SoftmaxAttention

SIZE, DIM, HEADS = 10, 16, 4


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    """Attention between two convolutions, as it is exported, spelled out."""
    torch.manual_seed(0)
    mixer = SplitSoftmaxAttention(SoftmaxAttention(dim=DIM, heads=HEADS).eval())
    return trace(frozen_copy(nn.Sequential(nn.Conv2d(3, DIM, 1), mixer, nn.Conv2d(DIM, 5, 1))), SIZE)


@pytest.fixture(scope="module")
def fused(plain: onnx.ModelProto) -> onnx.ModelProto:
    return fuse_attention(plain)


def in_onnxruntime(graph: onnx.ModelProto, images: np.ndarray, optimised: Path | None = None) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0])


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)


def operators(graph: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in graph.graph.node}


def test_the_file_is_valid_and_brings_the_definition(plain: onnx.ModelProto, fused: onnx.ModelProto) -> None:
    onnx.checker.check_model(fused, full_check=True)
    assert "Softmax" in operators(plain)
    assert "MultiHeadAttention" in operators(fused)
    assert "Softmax" not in operators(fused)
    (definition,) = fused.functions
    assert (definition.domain, definition.name) == ("com.microsoft", "MultiHeadAttention")
    assert fused.graph.input[0].type.tensor_type.shape.dim[0].dim_param


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_has_a_kernel_and_it_computes_the_same(
    plain: onnx.ModelProto, fused: onnx.ModelProto, batch: int, tmp_path: Path
) -> None:
    found = in_onnxruntime(fused, images(batch), tmp_path / "optimised.onnx")
    np.testing.assert_allclose(found, in_onnxruntime(plain, images(batch)), atol=1e-6)
    executed = operators(onnx.load(tmp_path / "optimised.onnx"))
    assert "MultiHeadAttention" in executed
    assert "Softmax" not in executed


def test_openvino_computes_the_same(plain: onnx.ModelProto, fused: onnx.ModelProto, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnx.save(fused, tmp_path / "fused.onnx")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(tmp_path / "fused.onnx"), "CPU", settings)
    found = np.asarray(compiled(images(3))[0])
    np.testing.assert_allclose(found, in_onnxruntime(plain, images(3)), atol=1e-5)


def test_the_definition_can_be_put_in_place(plain: onnx.ModelProto, fused: onnx.ModelProto) -> None:
    inlined = inliner.inline_local_functions(fused)
    assert {node.domain for node in inlined.graph.node} == {""}
    assert not inlined.functions
    np.testing.assert_allclose(
        in_onnxruntime(inlined, images(2)), in_onnxruntime(plain, images(2)), atol=1e-6
    )


def spelled_out(key_heads: tuple[int, ...] = (-1, 6, 2, 4)) -> onnx.ModelProto:
    """softmax(Q Kᵀ) V of 6 tokens, 2 heads of 4 channels, in float64."""
    shapes = {"heads": (-1, 6, 2, 4), "key_heads": key_heads, "rows": (-1, 8)}
    nodes = []
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        shape = "key_heads" if part == "key" else "heads"
        nodes.append(helper.make_node("Reshape", [part, shape], [f"{part}_1"]))
        nodes.append(helper.make_node("Transpose", [f"{part}_1"], [f"{part}_2"], perm=order))
    nodes += [
        helper.make_node("MatMul", ["query_2", "key_2"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value_2"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["mixed_1"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_1", "rows"], ["output"]),
    ]
    double = onnx.TensorProto.DOUBLE
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, double, ["rows", 8]) for name in ("query", "key", "value")],
        [helper.make_tensor_value_info("output", double, ["rows", 8])],
        [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_the_definition_is_exact() -> None:
    generator = np.random.default_rng(1)
    q, k, v = (generator.standard_normal((3 * 6, 8)) for _ in range(3))
    graph = fuse_attention(spelled_out())
    assert "MultiHeadAttention" in operators(graph)
    (found,) = ReferenceEvaluator(graph).run(None, {"query": q, "key": k, "value": v})
    expected = np.zeros((18, 8))
    for first in (0, 6, 12):
        tokens = slice(first, first + 6)
        for head in (slice(0, 4), slice(4, 8)):
            weights = np.exp(q[tokens, head] @ k[tokens, head].T)
            expected[tokens, head] = weights / weights.sum(axis=1, keepdims=True) @ v[tokens, head]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_what_is_no_attention_of_equal_heads_stays() -> None:
    graph = spelled_out(key_heads=(-1, 3, 2, 4))  # fewer keys than queries, of more sets
    found = fuse_attention(graph)
    assert operators(found) == operators(graph)
    assert not found.functions
    assert [entry.domain for entry in found.opset_import] == [""]
