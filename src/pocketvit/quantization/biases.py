"""Biases in the unit of the sums they are added to, as integer kernels want them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pocketvit.quantization.operators import Convolution, Linear, Operator
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["bias_unit", "round_biases"]

_LARGEST = 2.0**31 - 2**16
"""Of a 32-bit bias, with room for the sum."""


def round_biases(operators: Sequence[Operator]) -> None:
    """Round the bias of every quantized convolution and linear map to whole s_x s_w, a 32-bit integer.

    A shift of half a unit is below a hundredth of the result's step; but a simulation without it rounds a few
    results in a thousand differently, and after ten layers that is all of the quantization noise.

    A channel whose weights are all but 0 may have a unit that 2³¹ of do not reach its bias. Its scale is made
    larger, which costs it nothing beside that bias.
    """
    for operator in operators:
        unit = bias_unit(operator)
        if unit is None or operator.bias is None:
            continue
        bias = operator.bias.double()
        needed = bias.abs() / (_LARGEST * unit)
        if bool((needed > 1).any()):
            _widen(operator, needed.clamp_min(1))
            unit = bias_unit(operator)
            assert unit is not None
        operator.bias = nn.Parameter(((bias / unit).round() * unit).float(), requires_grad=False)


def bias_unit(operator: Operator) -> Tensor | None:
    """s_x s_w for each output channel, float64; `None` where the sums have no single unit."""
    if not isinstance(operator, Convolution | Linear) or operator.weight is None:
        return None
    reads, weights = operator.input_quantizers[0], operator.weight_quantizer
    if not isinstance(reads, UniformQuantizer) or not isinstance(weights, UniformQuantizer):
        return None
    if reads.axis is not None or weights.axis not in {None, operator.weight_axis}:
        return None
    return (reads.scale.double() * weights.scale.double()).expand(len(operator.weight))


def _widen(operator: Operator, factor: Tensor) -> None:
    grid = operator.weight_quantizer
    assert isinstance(grid, UniformQuantizer)
    wider = grid.scale.double() * (factor if grid.axis is not None else factor.max())
    # Rounded up to the next float32, so that the bias still fits.
    wider = torch.nextafter(wider.float(), torch.tensor(torch.inf)).where(factor > 1, grid.scale)
    operator.weight_quantizer = grid.at_scale(wider if grid.axis is not None else wider.max())
