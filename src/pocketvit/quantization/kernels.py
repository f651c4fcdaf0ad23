"""What the integer kernels of a runtime ask of a network.

ONNX Runtime: a convolution reads and writes integers, so what it returns is rounded to 8 bits; a SiLU behind
it and a mean over all pixels have integer kernels, which are far faster than the way to float and back.

OpenVINO: a convolution may return float, and takes the SiLU, the sum and the rounding behind it into its own
kernel; another rounding before these would keep them apart. Rounding the image takes longer than what the
first convolution gains by it: that stays in float.

In both, products of two activations stay in float: whole attention in float is one fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from pocketvit.quantization.gated import GatedSiLU
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Activation,
    Addition,
    Convolution,
    MatMul,
    Operator,
    Reduction,
)
from pocketvit.quantization.spec import Runtime

__all__ = ["fit_to_runtime", "leave_out_roundings", "writes_integers"]

_IMAGE = "reads the image: rounding that takes OpenVINO longer than this convolution saves"
_MULTIPLIED = "OpenVINO 2026.4 mixes up the scales of a depthwise convolution with several outputs a channel"
_PRODUCT = (
    "attention in float is the faster kernel: rounding both factors of a product costs more than it saves"
)
_REDUCTION = "no integer kernel: rounding what it reads would cost accuracy and time"


def fit_to_runtime(
    network: QuantizedNetwork, operators: Sequence[Operator], runtime: Runtime | None
) -> list[Operator]:
    """Those of `operators` that are to be quantized for `runtime`, some of them replaced in `network`.

    The others get their reason as `float_reason`.
    """
    network.runtime = runtime
    if runtime is None:
        return list(operators)
    if runtime == "onnxruntime":
        operators = _gated(network, operators)
    for operator in operators:
        operator.float_reason = _why_float(network, operator, runtime)
    return [operator for operator in operators if not operator.float_reason]


def writes_integers(operator: Operator, runtime: Runtime | None) -> bool:
    """Whether the kernel of `runtime` returns integers, whoever reads them."""
    if runtime != "onnxruntime":
        return False
    return isinstance(operator, Convolution) or (isinstance(operator, Reduction) and operator.is_global_mean)


def leave_out_roundings(network: QuantizedNetwork, operators: Sequence[Operator]) -> None:
    """Take away quantizers that the kernels of the network's runtime skip.

    OpenVINO adds a residual branch inside the convolution that ends it, before anything is rounded.
    """
    if network.runtime != "openvino":
        return
    for operator in operators:
        for index in range(operator.arity if isinstance(operator, Addition) else 0):
            producer = network.producer((operator.name, index))
            if isinstance(producer, Convolution) and network.only_reader(producer) is operator:
                operator.set_input(index, None)
                break  # only one of two convolutions can take the other's result


def _why_float(network: QuantizedNetwork, operator: Operator, runtime: Runtime) -> str:
    if isinstance(operator, Reduction):
        return "" if writes_integers(operator, runtime) else _REDUCTION
    if isinstance(operator, MatMul):
        return _PRODUCT
    if runtime == "openvino" and isinstance(operator, Convolution):
        if network.reads_image(operator):
            return _IMAGE
        assert operator.weight is not None
        if operator.is_depthwise and operator.groups < len(operator.weight):
            return _MULTIPLIED
    return ""


def _gated(network: QuantizedNetwork, operators: Sequence[Operator]) -> list[Operator]:
    """Put `GatedSiLU` in the place of every SiLU that alone reads what a quantized convolution returns."""
    made: dict[Operator, Operator] = {}
    for operator in operators:
        reader = network.only_reader(operator) if isinstance(operator, Convolution) else None
        if isinstance(reader, Activation) and reader.function == "silu":
            made[reader] = GatedSiLU(reader)
            network.replace(reader, made[reader])
    return [made.get(operator, operator) for operator in operators]
