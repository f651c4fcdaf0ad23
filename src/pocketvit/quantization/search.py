"""Grid search over scales: try every candidate on the operator itself, keep the best by an objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketvit.quantization.calibration import Sample
from pocketvit.quantization.objectives import Objective
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["best_scales", "factors", "search_input", "search_weight"]


def factors(alpha: float, beta: float, count: int) -> list[float]:
    """`count` evenly spaced factors from `alpha` to `beta`, both among them."""
    return torch.linspace(alpha, beta, count, dtype=torch.float64).tolist()


def search_weight(
    operator: Operator, sample: Sample, objective: Objective, *, base: UniformQuantizer, grid: Sequence[float]
) -> tuple[UniformQuantizer, float]:
    """`base` with the factor on its scale that minimises `objective`, one for each index of its axis.

    The inputs are quantized as the operator's input quantizers are at present.

    Returns:
        The best quantizer and its loss, averaged over channels.
    """
    inputs = operator.quantized_inputs(sample.inputs)
    weight = operator.weight
    assert weight is not None
    keep = None if base.axis is None else operator.output_axis(sample.output)
    return best_scales(
        base, grid, lambda quantizer: objective(operator.compute(inputs, quantizer(weight)), keep=keep)
    )


def search_input(
    operator: Operator,
    index: int,
    sample: Sample,
    objective: Objective,
    *,
    base: UniformQuantizer,
    grid: Sequence[float],
) -> tuple[UniformQuantizer, float]:
    """The same for input `index`; the weights and other inputs are quantized as they are at present.

    A base with an axis has a scale for each input channel. They are searched one by one, so each output
    channel must depend on the input channel of its index alone, as in a depthwise convolution or a sum.
    """
    inputs = operator.quantized_inputs(sample.inputs)
    weight = operator.quantized_weight()
    keep = None if base.axis is None else operator.channel_axis(sample.output)

    def loss(quantizer: UniformQuantizer) -> Tensor:
        tried = [*inputs[:index], quantizer(sample.inputs[index]), *inputs[index + 1 :]]
        return objective(operator.compute(tried, weight), keep=keep)

    return best_scales(base, grid, loss)


def best_scales(
    base: UniformQuantizer, grid: Sequence[float], loss: Callable[[UniformQuantizer], Tensor]
) -> tuple[UniformQuantizer, float]:
    """The factors on the scale of `base` with the least loss; zero points stay, as the range grows around 0.

    Ties and losses that are not finite leave the factor nearest to 1, so that no objective without a
    preference ever picks a scale of almost 0 (a dead operator).

    Args:
        loss: of a candidate, shape () or that of the scale.
    """
    best: Tensor | None = None
    chosen = torch.ones_like(base.scale)
    with torch.no_grad():
        for factor in sorted(grid, key=lambda f: abs(f - 1)):
            found = loss(scaled(base, factor)).expand_as(base.scale).nan_to_num(torch.inf, posinf=torch.inf)
            better = torch.isfinite(found) if best is None else found < best
            best = found.clone() if best is None else torch.where(better, found, best)
            chosen = torch.where(better, torch.full_like(chosen, factor), chosen)
    assert best is not None, "a grid has at least one factor"
    return scaled(base, chosen), float(best.mean())


def scaled(base: UniformQuantizer, factor: float | Tensor) -> UniformQuantizer:
    """The same integers for a range `factor` times as wide."""
    return UniformQuantizer(
        scale=base.scale * factor, zero_point=base.zero_point, qmin=base.qmin, qmax=base.qmax, axis=base.axis
    )
