"""Q-HyViT: granularity, scheme and scale of every operator by hybrid reconstruction (algorithm 1).

1. Run the float network on the calibration images.
2. Cover every tensor with min-max quantizers and take g = ∂KL/∂o of what operators and bridge blocks return.
3. For every operator in order, three rounds of: the weights' scales, then for each input the granularity
   {layer, channel}, the scheme {asymmetric, symmetric} and the scale, one of 100 between 0.01 and 1.2 times
   that of the whole range. An operator is scored by E[(g · (o − ô))²] at its own output; inside a bridge
   block (see `bridges`), at the block's output, the operators between quantized as they are by then.

An asymmetric range always contains 0, so no zero point leaves its integers: the overflow that the paper cures
by its choice of granularity (section III) cannot happen. Weights are symmetric, a scale an output channel for
convolutions, one for a linear layer. Scales of input channels are chosen one by one where each reaches one
output channel (depthwise convolutions, sums, products, heads of attention), else they share their factor.

The paper searches channel-wise scales for every layer. Where a sum runs over channels no integer kernel can
execute them, so `qhyvit` is simulated; `qhyvit_integer` leaves them out and is otherwise the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization import ranges
from pocketvit.quantization.bridges import Bridge, Remainder, bridges
from pocketvit.quantization.calibration import Calibration, Sample, float_logits, output_gradients, samples
from pocketvit.quantization.methods.easyquant import alternate
from pocketvit.quantization.methods.method import Calibrate, Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Addition,
    Convolution,
    MatMul,
    Multiplication,
    Norm,
    Operator,
)
from pocketvit.quantization.quantizers import Quantizer, Scheme, UniformQuantizer
from pocketvit.quantization.reconstruction import Reconstruction, search_scales
from pocketvit.quantization.search import factors
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["QHYVIT", "QHYVIT_INTEGER", "Granularity", "hybrid_reconstruction"]

Granularity = Literal["layer", "channel"]

_SCHEMES: tuple[Scheme, ...] = ("asymmetric", "symmetric")
_GRID = factors(0.01, 1.2, 100)
_ROUNDS = 3


def hybrid_reconstruction(granularities: Sequence[Granularity]) -> Calibrate:
    """The method for inputs of these granularities, the one to prefer first."""

    def calibrate(
        network: QuantizedNetwork,
        operators: Sequence[Operator],
        calibration: Calibration,
        spec: QuantizationSpec,
    ) -> None:
        for operator, sample in samples(network, calibration, operators):
            _cover(operator, sample, spec)
        blocks = {operator: bridge for bridge in bridges(network) for operator in bridge.operators}
        outputs = dict.fromkeys([*operators, *(o for bridge in blocks.values() for o in bridge.outputs)])
        gradients = output_gradients(network, calibration, list(outputs), float_logits(network, calibration))
        calibration = _hardest_first(calibration, gradients, operators[-1])
        found = samples(network, calibration, operators)
        with progress_bar() as bar:
            for operator, sample in bar.track(found, total=len(operators), description="searching"):
                score = _score(network, calibration, operator, sample, blocks.get(operator), gradients)
                alternate(operator, _searches(operator, sample, score, granularities, spec), rounds=_ROUNDS)

    return calibrate


def _cover(operator: Operator, sample: Sample, spec: QuantizationSpec) -> None:
    """Min-max quantizers for an operator: what the gradients are taken with, and where its search begins."""
    if operator.weight is not None and not isinstance(operator, Norm):
        operator.weight_quantizer = ranges.minmax(
            operator.weight,
            bits=spec.weight_bits(operator.name),
            scheme="symmetric",
            axis=operator.weight_axis if isinstance(operator, Convolution) else None,
        )
    for index, x in enumerate(sample.inputs):
        bits = spec.activation_bits(operator.name)
        operator.set_input(index, ranges.minmax(x, bits=bits, scheme="asymmetric"))


def _hardest_first(calibration: Calibration, gradients: dict[str, Tensor], last: Operator) -> Calibration:
    """The images in order of their gradients at the last operator; the rows of all gradients follow suit."""
    images = len(calibration.images)
    order = gradients[last.name].reshape(images, -1).square().sum(dim=1).argsort(descending=True)
    for name, gradient in gradients.items():
        gradients[name] = gradient.unflatten(0, (images, -1))[order].flatten(0, 1)
    labels = calibration.labels
    return Calibration(calibration.images[order], None if labels is None else labels[order])


def _score(
    network: QuantizedNetwork,
    calibration: Calibration,
    operator: Operator,
    sample: Sample,
    bridge: Bridge | None,
    gradients: dict[str, Tensor],
) -> Reconstruction:
    """What the operator's candidates are scored by."""
    images = len(calibration.images)
    if bridge is None or operator in bridge.outputs:
        return Reconstruction(
            operator, sample, images=images, targets=[sample.output], gradients=[gradients[operator.name]]
        )
    remainder = Remainder(network, calibration, start=operator, ends=bridge.outputs)
    return Reconstruction(
        operator,
        sample,
        images=images,
        targets=remainder.float_outputs,
        gradients=[gradients[end.name] for end in remainder.ends],
        remainder=remainder,
    )


def _searches(
    operator: Operator,
    sample: Sample,
    score: Reconstruction,
    granularities: Sequence[Granularity],
    spec: QuantizationSpec,
) -> dict[int | None, Callable[[], Quantizer]]:
    """A search for each quantizer of an operator, that of the weights (`None`) first."""
    searches: dict[int | None, Callable[[], Quantizer]] = {}
    weights = operator.weight_quantizer
    if isinstance(weights, UniformQuantizer):
        alone = weights.axis is not None and score.at_own_output
        keep = operator.output_axis(sample.output) if alone else None
        searches[None] = lambda: search_scales(weights, _GRID, score.of_weight(keep=keep))[0]
    for index, x in enumerate(sample.inputs):
        channel = operator.channel_axis(x)
        axes = [
            None if g == "layer" else channel for g in granularities if g == "layer" or x.shape[channel] > 1
        ]
        bits = spec.activation_bits(operator.name)
        bases = [
            ranges.minmax(x, bits=bits, scheme=scheme, axis=axis) for axis in axes for scheme in _SCHEMES
        ]
        alone = score.at_own_output and _channels_stay_apart(operator, index, sample)
        searches[index] = partial(_search_input, score, index, bases, channel if alone else None)
    return searches


def _search_input(
    score: Reconstruction, index: int, bases: Sequence[UniformQuantizer], channel: int | None
) -> Quantizer:
    """The best of the best of each granularity and scheme; of equals the first."""
    best, least = bases[0], torch.inf
    for base in bases:
        losses = score.of_input(index, keep=None if base.axis is None else channel)
        found, loss = search_scales(base, _GRID, losses, bound=least)
        if loss < least:
            best, least = found, loss
    return best


def _channels_stay_apart(operator: Operator, index: int, sample: Sample) -> bool:
    """Whether each output channel depends on the channel of its index in this input alone."""
    x, output = sample.inputs[index], sample.output
    if isinstance(operator, Convolution):
        return operator.is_depthwise and x.shape[1] == output.shape[1]
    if isinstance(operator, MatMul):  # whose channels are its heads
        return x.dim() == 4 and x.shape[1] == output.shape[1]
    return isinstance(operator, Addition | Multiplication) and x.shape == output.shape


_SOURCE = "Lee et al., arXiv 2303.12557 v3, section III and algorithm 1"

QHYVIT = Method(
    name="qhyvit",
    calibrate=hybrid_reconstruction(("layer", "channel")),
    title="granularity, scheme and scale by hybrid reconstruction (simulated)",
    source=_SOURCE,
    integer=False,
)
QHYVIT_INTEGER = Method(
    name="qhyvit_integer",
    calibrate=hybrid_reconstruction(("layer",)),
    title="qhyvit with one scale a tensor, as integer kernels execute it",
    source=_SOURCE,
    integer=True,
)
