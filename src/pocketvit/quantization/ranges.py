"""Observers: the range of a tensor that a quantizer should cover."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from pocketvit.quantization.quantizers import Scheme, UniformQuantizer

__all__ = [
    "Observer",
    "by_channel",
    "image_weights",
    "least_error",
    "minmax",
    "omse",
    "percentile",
    "quantile",
    "with_fitted_step",
]

Observer = Callable[..., UniformQuantizer]
"""`(x, *, bits, scheme, axis) -> UniformQuantizer`."""

_OMSE_STEPS = 90

_VALUES = 200_000
"""How many of a tensor's values are looked at where every one would take too long; evenly spaced."""

_SLACK = 1.05
"""Of ranges with nearly the least error the widest is taken: other images have values a few did not show."""

_LOUD = 10
"""Times the variance of the median image: more has no say in a range."""

_NEAR = 3e-5
"""Of a step: what float32 may be off by at the 255th."""

_BY_CHANCE = 2e-4
"""Share of values that may be that near to the middle of two steps; of evenly spread ones 6e-5 are."""

_NUDGES = tuple(1 + 1e-4 * k for step in range(1, 11) for k in (step, -step))
"""Factors of a step, the nearest to one first."""

_NO_VARIANCE = 1e-100
"""Below that of any float32 values that differ; sums of its inverse are finite."""

_BOTH_ENDS = tuple(1 - 0.02 * step for step in range(35))
_LOW_END, _HIGH_END = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2), (1.0, 0.9, 0.8)


def minmax(x: Tensor, *, bits: int, scheme: Scheme, axis: int | None = None) -> UniformQuantizer:
    """From the smallest to the largest value seen."""
    low, high = by_channel(x, axis).aminmax(dim=-1)
    return UniformQuantizer.from_range(_fit(low, axis), _fit(high, axis), bits=bits, scheme=scheme, axis=axis)


def percentile(
    x: Tensor, *, bits: int, scheme: Scheme, axis: int | None = None, share: float = 0.99999
) -> UniformQuantizer:
    """From the (1 − share) to the share quantile: outliers are clipped (FQ-ViT's default share)."""
    rows = by_channel(x, axis)
    low, high = (quantile(rows, q) for q in (1 - share, share))
    return UniformQuantizer.from_range(_fit(low, axis), _fit(high, axis), bits=bits, scheme=scheme, axis=axis)


def omse(x: Tensor, *, bits: int, scheme: Scheme, axis: int | None = None) -> UniformQuantizer:
    """The min-max range shrunk in 90 steps of 1 % to the one of least squared error (as in FQ-ViT)."""
    rows = by_channel(x, axis)
    low, high = rows.aminmax(dim=-1)
    best = torch.full_like(low, torch.inf)
    chosen_low, chosen_high = low.clone(), high.clone()
    for step in range(_OMSE_STEPS):
        shrink = 1 - step / 100
        quantizer = UniformQuantizer.from_range(low * shrink, high * shrink, bits=bits, scheme=scheme, axis=0)
        error = (quantizer(rows) - rows).square().mean(dim=-1)
        better = error < best
        best = torch.where(better, error, best)
        chosen_low = torch.where(better, low * shrink, chosen_low)
        chosen_high = torch.where(better, high * shrink, chosen_high)
    return UniformQuantizer.from_range(
        _fit(chosen_low, axis), _fit(chosen_high, axis), bits=bits, scheme=scheme, axis=axis
    )


def least_error(
    x: Tensor, *, bits: int, behind: Callable[[Tensor], Tensor] | None = None, images: int = 1
) -> UniformQuantizer:
    """The asymmetric range of least squared error, found by shrinking both ends together, then each alone.

    Args:
        behind: a function of every element that is all that reads the tensor; the error is measured behind
            it, since what it flattens needs no integers.
        images: how many lie one behind the other in `x`. The error of each is relative to the variance of its
            values, and the loudest have no say, or one image of large values decides for all.
    """
    function = behind or (lambda values: values)
    rows = _by_image(x, images)
    rows = rows[~_loud(function(_some(rows)))]
    low, high = rows.aminmax()
    values = _some(rows)
    wanted = function(values)
    weights = image_weights(wanted)

    def best_of(ranges: Iterable[tuple[Tensor, Tensor]]) -> UniformQuantizer:
        tried = [UniformQuantizer.from_range(a, b, bits=bits) for a, b in ranges]
        errors = [float((weights * (function(q(values)) - wanted).double().square()).mean()) for q in tried]
        limit = min(errors) * _SLACK
        return max((q for q, error in zip(tried, errors, strict=True) if error <= limit), key=_width)

    both = best_of((low * f, high * f) for f in _BOTH_ENDS)
    return best_of((both.low * f, both.high * g) for f in _LOW_END for g in _HIGH_END)


def with_fitted_step(quantizer: UniformQuantizer, x: Tensor) -> UniformQuantizer:
    """The same integers k with the step that fits the values they stand for best: Σ k x / Σ k².

    It is hardly wider or narrower, but no simple fraction of anything in `x`. Products of integers are all
    multiples of one number, and so is the largest, whose 255th part a step may be: many values then lie
    halfway between two steps. Which way those go, the last bit of float arithmetic decides, so each runtime
    decides otherwise, and later operators pass on whole steps. Where a product that occurs often is halfway
    all the same, the step is changed by a thousandth at most.

    Args:
        quantizer: of the whole tensor.
    """
    zero, steps = quantizer.zero_point, _some(x.reshape(1, -1)).double() / quantizer.scale
    steps = steps[(steps > quantizer.qmin - zero) & (steps < quantizer.qmax - zero)]
    integers = steps.round()
    if not integers.any():
        return quantizer
    fit = (integers * steps).sum() / integers.square().sum()
    fitted = quantizer.at_scale(quantizer.scale * fit)
    if _halfway(steps / fit) <= _BY_CHANCE:
        return fitted
    factor = min(_NUDGES, key=lambda factor: max(_BY_CHANCE, _halfway(steps / (fit * factor))))
    return fitted.at_scale(fitted.scale * factor)


def _halfway(steps: Tensor) -> float:
    """The share of values so near to the middle of two steps that float32 cannot tell which is nearer."""
    return float(((steps - steps.floor() - 0.5).abs() < _NEAR).double().mean())


def image_weights(rows: Tensor) -> Tensor:
    """One over the variance of each row, `(rows, 1)`; rows that hardly vary count no more than 100 times."""
    if len(rows) == 1:
        return rows.new_ones(1, 1, dtype=torch.float64)
    variance = rows.double().var(dim=1, keepdim=True, correction=0)
    least = max(0.01 * float(variance.mean()), _NO_VARIANCE)
    return 1 / variance.clamp(min=least)


def _loud(rows: Tensor) -> Tensor:
    """Which rows vary so much more than the median of those that vary at all that they are of another kind.

    Relative errors do not keep such an image from the steps of all others: to clip it costs about one over
    the number of images, more than to round the others with steps three times as large.
    """
    variance = rows.double().var(dim=1, correction=0)
    varying = variance[variance > 0].sort().values
    return variance > _LOUD * varying[len(varying) // 2] if len(varying) else variance > 0


def _width(quantizer: UniformQuantizer) -> float:
    return float(quantizer.scale)


def _by_image(x: Tensor, images: int) -> Tensor:
    """A row of values an image; a single one where `x` is not divided into so many."""
    return x.reshape(images if x.numel() % images == 0 else 1, -1)


def _some(rows: Tensor) -> Tensor:
    """No more values of each row than take `_VALUES` in all."""
    wanted = _VALUES // len(rows)
    if rows.shape[1] <= wanted:
        return rows
    return rows[:, torch.linspace(0, rows.shape[1] - 1, wanted, dtype=torch.float64).long()]


def by_channel(x: Tensor, axis: int | None) -> Tensor:
    """One row of values a channel; a single row for the whole tensor."""
    if axis is None:
        return x.reshape(1, -1)
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def _fit(values: Tensor, axis: int | None) -> Tensor:
    return values[0] if axis is None else values


def quantile(rows: Tensor, share: float) -> Tensor:
    """Exact, and for rows of any length, which `torch.quantile` is not."""
    count = rows.shape[-1]
    rank = min(count - 1, max(0, round(share * (count - 1))))
    return rows.kthvalue(rank + 1, dim=-1).values
