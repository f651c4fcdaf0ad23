"""Softmax attention as one operator of the file, so that a runtime need not write out the scores."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper
from onnxscript import ir
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.pattern import RewriteRule

__all__ = ["fuse_attention"]

_DOMAIN, _NAME = "com.microsoft", "MultiHeadAttention"


def fuse_attention(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with every spelled-out softmax attention as one `MultiHeadAttention`.

    The scores of N tokens are N × N numbers a head, at 512 px more than fit a cache. ONNX Runtime has a
    kernel that computes them in blocks (Dao, arXiv 2307.08691, section 3.1). The operator is no part of
    ONNX, so the graph brings its definition in operators that are, a function: a runtime without the kernel
    executes that, OpenVINO from 2026.3 on. For one that knows neither, `onnx.inliner.inline_local_functions`
    puts the definition in place.
    """
    fused = rewrite(graph, pattern_rewrite_rules=[_RULE])
    if any(node.op_type == _NAME and node.domain == _DOMAIN for node in fused.graph.node):
        (version,) = (entry.version for entry in graph.opset_import if not entry.domain)
        fused.functions.append(_definition(version))
    return fused


def _spelled_out(
    op: Any, query: Any, key: Any, value: Any, heads: Any, key_heads: Any, value_heads: Any, rows: Any
) -> Any:
    """Attention of tokens as `SplitSoftmaxAttention` exports it, its scale inside the query."""
    q = op.Transpose(op.Reshape(query, heads), perm=[0, 2, 1, 3])
    k = op.Transpose(op.Reshape(key, key_heads), perm=[0, 2, 3, 1])
    v = op.Transpose(op.Reshape(value, value_heads), perm=[0, 2, 1, 3])
    mixed = op.MatMul(op.Softmax(op.MatMul(q, k), axis=-1), v)
    return op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), rows)


def _fused(op: Any, query: Any, key: Any, value: Any, heads: Any, rows: Any, **others: Any) -> Any:
    del others
    _, tokens, count, width = heads.const_value.numpy().tolist()
    shape = op.Constant(value_ints=[-1, tokens, count * width])
    parts = (op.Reshape(part, shape) for part in (query, key, value))
    mixed = op.MultiHeadAttention(*parts, num_heads=count, scale=1.0, _domain=_DOMAIN, _version=1)
    return op.Reshape(mixed, rows)


def _alike(
    context: Any, heads: ir.Value, key_heads: ir.Value, value_heads: ir.Value, **others: ir.Value
) -> bool:
    """Whether the heads of all three have constant sizes, the same, any number of sets of tokens."""
    del context, others
    sizes = [heads.const_value, key_heads.const_value, value_heads.const_value]
    if any(size is None for size in sizes):
        return False
    first, *rest = (size.numpy().tolist() for size in sizes if size is not None)
    return len(first) == 4 and first[0] == -1 and min(first[1:]) > 0 and rest == [first, first]


_RULE = RewriteRule(_spelled_out, _fused, _alike)


def _definition(version: int) -> onnx.FunctionProto:
    """softmax(scale · Q Kᵀ) V for each head, of queries, keys and values (sets, tokens, heads · d)."""
    nodes = [
        _attribute("heads", "num_heads", value="value_int", kind=onnx.AttributeProto.INT),
        _attribute("factor", "scale", value="value_float", kind=onnx.AttributeProto.FLOAT),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Constant", [], ["kept"], value_ints=[0, 0]),  # 0: as it was
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Unsqueeze", ["heads", "first"], ["heads_1d"]),
        helper.make_node("Concat", ["kept", "heads_1d", "rest"], ["split"], axis=0),
        helper.make_node("Concat", ["kept", "rest"], ["joined"], axis=0),
    ]
    for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [part, "split"], [f"{part}_heads"]))
        nodes.append(helper.make_node("Transpose", [f"{part}_heads"], [f"{part}_first"], perm=order))
    nodes += [
        helper.make_node("MatMul", ["query_first", "key_first"], ["products"]),
        helper.make_node("CastLike", ["factor", "products"], ["cast_factor"]),
        helper.make_node("Mul", ["products", "cast_factor"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "value_first"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["mixed_last"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_last", "joined"], ["output"]),
    ]
    return helper.make_function(
        _DOMAIN,
        _NAME,
        ["query", "key", "value"],
        ["output"],
        nodes,
        [helper.make_opsetid("", version)],
        attributes=["num_heads", "scale"],
    )


def _attribute(name: str, attribute: str, *, value: str, kind: Any) -> onnx.NodeProto:
    """A constant that is an attribute of the operator."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.add(name=value, ref_attr_name=attribute, type=kind)
    return node
