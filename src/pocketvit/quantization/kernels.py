"""What the integer kernels of a runtime ask of a network.

ONNX Runtime: a convolution reads and writes integers, so what it returns is rounded to 8 bits; SiLU or GELU
behind it and a mean over all pixels have integer kernels, far faster than the way to float and back.

OpenVINO: a convolution may return float, and takes the SiLU, the sum and the rounding behind it into its own
kernel; another rounding before these would keep them apart. Sums and products of two tensors compute in float
whatever they read.

In both, products of two activations stay in float: whole attention in float is one fused kernel. Where little
is multiplied, rounding what is read takes longer than the product: there only the weights are integers. In
ONNX Runtime rounding the image takes longer than what the first convolution gains by it; OpenVINO brings the
image into the layout of its convolutions, which takes longer for floats than for 8-bit integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketvit.quantization.gated import SLOPES, GatedActivation
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Activation,
    Convolution,
    Linear,
    MatMul,
    Operator,
    Reduction,
)
from pocketvit.quantization.spec import Runtime

__all__ = ["fit_to_runtime", "writes_integers"]

_IMAGE = "reads the image: rounding that takes longer than what integers save in so few channels"
_MULTIPLIED = {
    "openvino": "OpenVINO 2026.4 mixes up the scales of a depthwise convolution with several outputs a "
    "channel",
    "onnxruntime": "ONNX Runtime has no integer kernel of its own for a depthwise convolution with several "
    "outputs a channel: the general one is slower than float",
}
_PRODUCT = (
    "attention in float is the faster kernel: rounding both factors of a product costs more than it saves"
)
_REDUCTION = "no integer kernel: rounding what it reads would cost accuracy and time"
_LITTLE = "weights in 8 bits, products in float: rounding what it reads takes longer than so small a product"
_SELDOM = "rounding what it reads takes longer than what it saves: each number is multiplied a few times only"
_CONSTANT = "reads the same numbers for every image: runtimes compute it once"

_FEW_ROWS, _FEW_WEIGHTS = 16, 2**16
"""Less than so many vectors times less than so many weights, which are near the processor even in float."""

_FEW_OUTPUTS = 4
"""With less, every number that is rounded is multiplied less often than that."""


def fit_to_runtime(
    network: QuantizedNetwork, operators: Sequence[Operator], runtime: Runtime | None, image: Tensor
) -> list[Operator]:
    """Those of `operators` that are to be quantized for `runtime`, some of them replaced in `network`.

    The others get their reason as `float_reason`. Those of which only the weights are to be quantized have
    such a reason too.

    Args:
        image: one, (1, C, S, S), to see how much each operator multiplies.
    """
    network.runtime = runtime
    if runtime is None:
        return list(operators)
    for operator in operators:
        operator.float_reason = _why_float(network, operator, runtime)
    chosen = [operator for operator in operators if not operator.float_reason]
    _leave_little_work(network, chosen, image)
    chosen = [operator for operator in chosen if operator.weights_only or not operator.float_reason]
    return _gated(network, chosen) if runtime == "onnxruntime" else chosen


def writes_integers(operator: Operator, runtime: Runtime | None) -> bool:
    """Whether the kernel of `runtime` returns integers, whoever reads them."""
    if runtime != "onnxruntime":
        return False
    return isinstance(operator, Convolution) or (isinstance(operator, Reduction) and operator.is_global_mean)


def _leave_little_work(network: QuantizedNetwork, operators: Sequence[Operator], image: Tensor) -> None:
    """Mark linear maps that multiply too little for integers to pay; never what returns the scores."""
    linear = [operator for operator in operators if isinstance(operator, Linear)]
    results, scores = _results(network, linear, image)
    others, _ = _results(network, linear, image + 1)
    for operator in linear:
        result, weight = results[operator], operator.weight
        assert weight is not None
        if result is scores:
            continue
        if torch.equal(result, others[operator]):
            operator.float_reason = _CONSTANT
        elif result.numel() // len(weight) < _FEW_ROWS and weight.numel() < _FEW_WEIGHTS:
            operator.float_reason, operator.weights_only = _LITTLE, True
        elif len(weight) < _FEW_OUTPUTS:
            operator.float_reason = _SELDOM


def _results(
    network: QuantizedNetwork, operators: Sequence[Operator], image: Tensor
) -> tuple[dict[nn.Module, Tensor], Tensor]:
    """What operators return, and the network."""
    results: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: object, result: Tensor) -> None:
        results[module] = result

    hooks = [operator.register_forward_hook(keep) for operator in operators]
    with torch.no_grad():
        scores = network(image)
    for hook in hooks:
        hook.remove()
    return results, scores


def _why_float(network: QuantizedNetwork, operator: Operator, runtime: Runtime) -> str:
    if isinstance(operator, Reduction):
        return "" if writes_integers(operator, runtime) else _REDUCTION
    if isinstance(operator, MatMul):
        return _PRODUCT
    if isinstance(operator, Convolution):
        assert operator.weight is not None
        if runtime == "onnxruntime" and network.reads_image(operator):
            return _IMAGE
        if operator.is_depthwise and operator.groups < len(operator.weight):
            return _MULTIPLIED[runtime]
    return ""


def _gated(network: QuantizedNetwork, operators: Sequence[Operator]) -> list[Operator]:
    """Put a `GatedActivation` where a SiLU or GELU alone reads what a quantized convolution returns."""
    made: dict[Operator, Operator] = {}
    for operator in operators:
        reader = network.only_reader(operator) if isinstance(operator, Convolution) else None
        if isinstance(reader, Activation) and reader.function in SLOPES:
            made[reader] = GatedActivation(reader)
            network.replace(reader, made[reader])
    return [made.get(operator, operator) for operator in operators]
