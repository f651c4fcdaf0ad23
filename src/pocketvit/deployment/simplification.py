"""Simplify the graph of an ONNX file: fold what is constant, merge what is exactly one operator.

Passes and rules are those of `onnxscript.optimizer.optimize_ir`, but for one rule: that which joins slices to
a split goes through the whole graph for every node of it, which makes the export of a deep network quadratic
in its depth, and PyTorch writes the splits of a network as such.
"""

from __future__ import annotations

import sys

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules

__all__ = ["simplify"]

_ROUNDS = 2  # what a rule leaves may be folded, and folded again there is rarely anything

_RULES = RewriteRuleSet(
    [
        *rules.mul_by_1_rule.commute(),
        *rules.add_0_rule.commute(),
        rules.sub_0_rule,
        rules.div_by_1_rule,
        rules.dropout_zero_rule,
        rules.dropout_inference_rule,
        rules.one_reshape_matmul_reshape_rule,
        rules.two_reshapes_matmul_reshape_rule,
        rules.cast_constant_of_shape_rule,
        rules.cast_constant_of_shape_without_value_rule,
        rules.collapse_slice_rule,
        rules.collapse_slice2_rule,
        rules.materialize_reshape_shape_rule,
        rules.min_min_rule,
        rules.max_max_rule,
        rules.min_max_rule,
        rules.max_min_rule,
        rules.successive_clip_relu_rule,
        rules.successive_relu_clip_rule,
        rules.successive_relu_rule,
        rules.successive_clip_rule,
        rules.cast_cast_rule,
        rules.no_op_cast_rule,
        rules.no_op_expand_rule,
        rules.flatten_to_reshape_rule,
        rules.reshape_reshape_rule,
        rules.no_op_transpose_rule,
        rules.transpose_transpose_rule,
        rules.unsqueeze_unsqueeze_rule,
        rules.squeeze_reshape_1d_rule,
        rules.no_op_dynamic_scatter_nd_rule,
        rules.no_op_static_scatter_nd_rule,
        rules.normalize_pad_format_conv_rule,
        rules.fuse_pad_into_conv_rule,
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
        rules.remove_optional_bias_from_gemm_rule,
    ]
)

_CLEANING = (
    passes.RemoveUnusedNodesPass(),
    passes.RemoveUnusedFunctionsPass(),
    passes.RemoveUnusedOpsetsPass(),
)

_FINISH = (
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    passes.LiftSubgraphInitializersToMainGraphPass(),
    passes.DeduplicateInitializersPass(),
    passes.CommonSubexpressionEliminationPass(),
    passes.OutputFixPass(),
    passes.NameFixPass(),
)


def simplify(model: ir.Model) -> None:
    """Simplify in place; what the graph computes stays."""
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        # By default operations on weights are left alone when these are larger than a few kB; a file that is
        # opened a thousand times should not slice its weights anew each time.
        folded = fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=sys.maxsize,
            output_size_limit=sys.maxsize,
            should_fold=_should_fold,
        )
        rewritten = RewritePass(_RULES)(model)
        for clean in _CLEANING:
            clean(model)
        if not (folded.modified or rewritten.modified):
            break
    for finish in _FINISH:
        finish(model)


def _should_fold(node: ir.Node) -> bool | None:
    """Not what makes floats of stored integers, which take a quarter of the room; the rest as usual."""
    stored = node.inputs[0] if node.op_type == "Cast" else None
    return False if stored is not None and stored.dtype == ir.DataType.INT8 else None
