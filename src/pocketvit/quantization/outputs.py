"""Quantizers for what convolutions return: ONNX Runtime's integer convolution writes 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Activation, Convolution, Operator
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["quantize_outputs"]

_SHRINKS = tuple(1 - 0.02 * step for step in range(30))
_BITS = 8
"""Whatever the width of the inputs: the result of a convolution is not multiplied by weights again."""


def quantize_outputs(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Give every quantized convolution an 8-bit quantizer for its result.

    The range is the one of least squared error behind the activation function that alone reads the result, if
    there is one: what ReLU or SiLU flattens needs no integers.
    """
    del spec
    convolutions = [o for o in operators if isinstance(o, Convolution) and o.has_quantizers]
    for operator, sample in samples(network, calibration, convolutions):
        with torch.no_grad():
            operator.output = None
            result = operator(*sample.inputs)
            operator.output = _least_error(result, _reader(network, operator))


def _reader(network: QuantizedNetwork, operator: Operator) -> Activation | None:
    """The activation function that alone reads what `operator` returns."""
    reader = network.only_reader(operator)
    return reader if isinstance(reader, Activation) else None


def _least_error(x: Tensor, reader: Activation | None) -> UniformQuantizer:
    low, high = x.aminmax()

    def function(y: Tensor) -> Tensor:
        return y if reader is None else reader.compute([y], None)

    wanted = function(x)
    best, chosen = torch.inf, None
    for below in _SHRINKS if reader is not None else (1.0,):
        for above in (1.0, 0.9, 0.8, 0.7):
            quantizer = UniformQuantizer.from_range(low * below, high * above, bits=_BITS)
            error = float((function(quantizer(x)) - wanted).square().mean())
            if error < best:
                best, chosen = error, quantizer
    assert chosen is not None, "the error of a finite tensor is finite"
    return chosen
