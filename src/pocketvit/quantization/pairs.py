"""Weights whose products fit in 16 bits two by two, as processors without VNNI sum them.

There an integer kernel multiplies unsigned activations, at most 255, with signed weights, adds each product
to its neighbour's, and keeps the sum in 16 bits, clipped (x86's `vpmaddubsw`; ONNX Runtime and OpenVINO both,
on every Intel processor before Cascade Lake and Ice Lake and every AMD before Zen 4). 255 (w₀ + w₁) is never
clipped if the positive weights of a pair sum up to at most 128 and the negative ones to at least −128. A file
whose weights keep to that computes the same on every processor.

Neighbours are the input channels 2i and 2i + 1 at one place of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Convolution, Linear, Operator
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["WIDER", "PairedQuantizer", "avoid_overflow", "overflow_safe", "rest_of_pair"]

_MOST = 128
"""Of the sum of a pair: 255 · 128 = 32,640 < 2¹⁵."""

WIDER = (1.9, 1.75, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1)
"""Times the usual scale: a coarser grid, of which fewer pairs are clipped. At twice the scale none is."""


class PairedQuantizer(UniformQuantizer):
    """Signed integers, a scale an output channel, whose pairs along dimension 1 sum up to at most ±128.

    What is too much for a pair is taken from both in equal parts.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
        return _bounded((super().forward(x) / scale).round()) * scale


def overflow_safe(grid: UniformQuantizer, operator: Operator) -> UniformQuantizer:
    """The grid of weights on which the sums of `operator` cannot overflow; `grid` itself if that is so.

    Where it depends on the kernel which weights are neighbours, with an odd number of input channels, each
    has to keep to half the range alone.
    """
    weight = operator.weight
    if weight is None or not isinstance(operator, Convolution | Linear) or max(-grid.qmin, grid.qmax) <= 64:
        return grid
    channels, kernel = weight.shape[1], weight[0, 0].numel()
    if isinstance(operator, Convolution) and channels == 1 and operator.groups == len(weight):
        return grid  # kernels of depthwise convolutions sum in 32 bits
    if channels % 2 and kernel > 1:
        half = _MOST // 2
        wider = grid.scale.double() * grid.qmax / half
        return UniformQuantizer(scale=wider, qmin=-half, qmax=half, axis=grid.axis)
    scale = grid.scale.expand(len(weight))
    return PairedQuantizer(scale=scale, qmin=grid.qmin, qmax=grid.qmax, axis=0)


def avoid_overflow(operators: Sequence[Operator]) -> None:
    """Put weights that methods rounded without thinking of pairs on a grid of least error that is safe.

    Zero points and grids along other dimensions are left alone: no integer kernel takes them anyway.
    """
    for operator in operators:
        grid = operator.weight_quantizer
        if not isinstance(grid, UniformQuantizer) or isinstance(grid, PairedQuantizer):
            continue
        if grid.zero_point.any() or grid.axis not in {None, operator.weight_axis}:
            continue
        safe = overflow_safe(grid, operator)
        if isinstance(safe, PairedQuantizer) and operator.weight is not None:
            safe = _least_error(safe, operator.weight)
        operator.weight_quantizer = safe


def rest_of_pair(first: Tensor, grid: UniformQuantizer) -> tuple[Tensor, Tensor]:
    """Smallest and largest integer that the second weight of a pair may be, given the first."""
    low = (-_MOST - first.clamp_max(0)).clamp_min(grid.qmin)
    high = (_MOST - first.clamp_min(0)).clamp_max(grid.qmax)
    return low, high


def _least_error(grid: PairedQuantizer, weight: Tensor) -> PairedQuantizer:
    """The same with the scale of each output channel that is nearest to the weights."""
    best = torch.full_like(grid.scale, torch.inf, dtype=torch.float64)
    chosen = grid.scale.clone()
    for factor in (1.0, *reversed(WIDER), 2.0):
        tried = grid.at_scale(grid.scale * factor)
        error = (tried(weight) - weight).double().square().flatten(1).sum(dim=1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, tried.scale, chosen)
    return grid.at_scale(chosen)


def _bounded(integers: Tensor) -> Tensor:
    """Integers (out, in, …) with what is too much for a pair taken from both."""
    paired = integers.shape[1] // 2 * 2
    first, second = integers[:, 0:paired:2], integers[:, 1:paired:2]
    for sign in (1, -1):
        excess = ((sign * first).clamp_min(0) + (sign * second).clamp_min(0) - _MOST).clamp_min(0)
        first, second = first - sign * (excess / 2).ceil(), second - sign * (excess / 2).floor()
    pairs = torch.stack((first, second), dim=2).flatten(1, 2)
    return torch.cat((pairs, integers[:, paired:]), dim=1)
