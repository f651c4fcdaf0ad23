"""What may be done about an operator that loses more than others, tried one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pocketvit.quantization.operators import Convolution, Norm, Operator
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer
from pocketvit.quantization.ranges import least_error, minmax
from pocketvit.quantization.sensitivity import Visit

__all__ = ["Action", "Remedy", "best_remedy", "remedies"]

Action = Literal["keep in float", "8 bits", "whole range", "asymmetric", "range a channel"]

_ENOUGH = 0.05
"""Share of the network's error below which a remedy is not worth its words."""

_NEARLY = 0.8
"""Share of what float gains that makes integers the better choice."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Something else done to one operator.

    Attributes:
        action: what.
        gain: share of the whole network's error at the logits that goes away; negative where it grows.
    """

    action: Action
    gain: float


def remedies(visit: Visit, real: Operator, gain: Callable[[Operator], float]) -> tuple[Remedy, ...]:
    """Every remedy that makes a difference to this operator, with its measured gain.

    Args:
        visit: of the operator in the quantized network.
        real: the same operator in float.
        gain: of an operator in its place.
    """
    return tuple(Remedy(action=action, gain=gain(other)) for action, other in _variants(visit, real))


def best_remedy(tried: tuple[Remedy, ...]) -> Remedy | None:
    """The one with the greatest gain; float only where no remedy in integers comes near it."""
    worth = [remedy for remedy in tried if remedy.gain >= _ENOUGH]
    if not worth:
        return None
    best = max(worth, key=lambda remedy: remedy.gain)
    integers = [remedy for remedy in worth if remedy.action != "keep in float"]
    near = max(integers, key=lambda remedy: remedy.gain, default=best)
    return near if near.gain >= _NEARLY * best.gain else best


def _variants(visit: Visit, real: Operator) -> Iterator[tuple[Action, Operator]]:
    operator = visit.operator
    floating = copy.deepcopy(real)
    floating.quantized = False
    yield "keep in float", floating
    weights = operator.weight_quantizer
    narrow = [q for q in (*operator.input_quantizers, weights) if q is not None and q.bits < 8]
    if narrow:
        yield "8 bits", _wider(visit, real)
    if any(
        isinstance(q, UniformQuantizer) and q.axis is None and _cuts(q, x)
        for q, x in zip(operator.input_quantizers, visit.inputs, strict=True)
    ):
        yield "whole range", _with_inputs(visit, _whole_range)
    if any(
        isinstance(q, UniformQuantizer) and q.axis is None and q.scheme == "symmetric" and q.qmin < 0
        for q in operator.input_quantizers
    ):
        yield "asymmetric", _with_inputs(visit, _asymmetric)
    if isinstance(operator, Convolution) and operator.is_depthwise and _has_one_range(operator):
        yield "range a channel", _with_inputs(visit, _by_channel)


def _wider(visit: Visit, real: Operator) -> Operator:
    """The float operator quantized again, to 8 bits."""
    wider = copy.deepcopy(visit.operator)
    for index, (quantizer, x) in enumerate(zip(wider.input_quantizers, visit.inputs, strict=True)):
        if quantizer is not None:
            wider.set_input(index, least_error(x, bits=8))
    if wider.weight_quantizer is not None and real.weight is not None and not isinstance(wider, Norm):
        wider.weight, wider.bias = real.weight, real.bias
        wider.weight_quantizer = minmax(real.weight, bits=8, scheme="symmetric", axis=wider.weight_axis)
    return wider


def _with_inputs(visit: Visit, make: Callable[[UniformQuantizer, Tensor], Quantizer]) -> Operator:
    """The operator with other quantizers for those inputs that have one range."""
    other = copy.deepcopy(visit.operator)
    for index, (quantizer, x) in enumerate(zip(other.input_quantizers, visit.inputs, strict=True)):
        if isinstance(quantizer, UniformQuantizer) and quantizer.axis is None:
            other.set_input(index, make(quantizer, x))
    return other


def _whole_range(quantizer: UniformQuantizer, x: Tensor) -> Quantizer:
    return minmax(x, bits=quantizer.bits, scheme=quantizer.scheme)


def _asymmetric(quantizer: UniformQuantizer, x: Tensor) -> Quantizer:
    return least_error(x, bits=quantizer.bits)


def _by_channel(quantizer: UniformQuantizer, x: Tensor) -> Quantizer:
    return minmax(x, bits=quantizer.bits, scheme=quantizer.scheme, axis=1)


def _cuts(quantizer: UniformQuantizer, x: Tensor) -> bool:
    low, high = x.aminmax()
    half = quantizer.scale / 2
    return bool(torch.logical_or(low < quantizer.low - half, high > quantizer.high + half))


def _has_one_range(operator: Operator) -> bool:
    return all(isinstance(q, UniformQuantizer) and q.axis is None for q in operator.input_quantizers)
