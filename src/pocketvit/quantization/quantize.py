"""Post-training quantization of a network: one call."""

from __future__ import annotations

import copy

from torch import nn

from pocketvit.quantization.biases import round_biases
from pocketvit.quantization.calibration import Calibration, check_finite
from pocketvit.quantization.capture import capture
from pocketvit.quantization.kernels import fit_to_runtime
from pocketvit.quantization.methods import get_method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.outputs import quantize_outputs
from pocketvit.quantization.pairs import avoid_overflow
from pocketvit.quantization.roundings import leave_out_roundings
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["operators_to_quantize", "quantize"]


def quantize(
    model: nn.Module | QuantizedNetwork, spec: QuantizationSpec, calibration: Calibration
) -> QuantizedNetwork:
    """A quantized copy of a network, calibrated on a few training images.

    The result computes in float what its integer form computes in integers. An operator that is not quantized
    has no quantizers.

    Args:
        model: rewritten for inference (see `pocketvit.deployment.rewrites`): batch normalisations not folded
            into convolutions stay in float. Or a captured network, which is copied.

    Raises:
        UnknownNameError: no such method.
        ConfigError: `keep_float` or `bits` names an operator that does not exist.
        DataError: the network computes numbers that are not finite on the calibration images, or the method
            can make nothing of them.
        ExportError: the network cannot be traced into a graph.
    """
    method = get_method(spec.method)
    height = calibration.images.shape[-1]
    network = (
        copy.deepcopy(model)
        if isinstance(model, QuantizedNetwork)
        else capture(model, size=height, in_chans=calibration.images.shape[1])
    )
    check_finite(network, calibration)
    operators = fit_to_runtime(
        network, operators_to_quantize(network, spec), spec.runtime, calibration.images[:1]
    )
    method.calibrate(network, operators, calibration, spec)
    if spec.runtime is not None:
        avoid_overflow(operators)
    leave_out_roundings(network, operators)
    quantize_outputs(network, operators, calibration, spec)
    round_biases(operators)
    return network.eval().requires_grad_(False)


def operators_to_quantize(network: QuantizedNetwork, spec: QuantizationSpec) -> list[Operator]:
    """The operators of a network that scope and `keep_float` leave to be quantized.

    Raises:
        ConfigError: a pattern of `keep_float` or a name of `bits` matches no operator.
    """
    kept = {operator.name for pattern in spec.keep_float for operator in network.matching(pattern)}
    for name in spec.bits:
        network.operator(name)
    return [
        operator
        for name, operator in network.operators.items()
        if name not in kept and (spec.scope == "full" or operator.in_partial_scope)
    ]
