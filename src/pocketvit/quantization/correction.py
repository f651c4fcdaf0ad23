"""Closed-form corrections of weights: make up for what the quantization of the inputs did, then round well.

Both need only the second moments of what an operator reads, H = E[x xᵀ] over images and places, for each
group of a convolution: no gradients, and one linear solve an operator. In every mean an image weighs
1 / (σ² (1 + e/δ)²), with σ² the variance of its results, e their error relative to it before any correction
and δ = 0.02: the error of one with large values, which ranges clip, is not to be made up for in all others.
These are the weights of one step of reweighted least squares for the loss e / (e + δ) (Geman and McClure,
1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketvit.quantization.operators import Convolution, Linear
from pocketvit.quantization.pairs import WIDER, PairedQuantizer, overflow_safe, rest_of_pair
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.ranges import image_weights

__all__ = ["WeightedOperator", "correct_weights", "least_error_weights"]

WeightedOperator = Convolution | Linear

_SHRINKS = tuple(1 - 0.02 * step for step in range(25))
_DAMPING = 0.01
"""Share of the mean second moment that is added to H before it is inverted."""

_RIDGE = 0.1
"""The same for the correction of the inputs' error, which has fewer images than unknowns to learn from."""

_LARGE = 0.02
"""Of an image's variance: an error above is of ranges that clip this image, not one to be made up for."""

_MOST = 1e6
"""No error is taken for larger, so that weights stay above zero."""

_BLOCK = 64
"""Columns that are rounded before the rest hears of their errors."""


@dataclass(frozen=True)
class _Moments:
    """Second moments of what an operator reads and should return, centred, in double precision.

    Means are weighted, as in the head of this file.

    Attributes:
        inputs: H, (groups, k, k).
        errors: E[x rᵀ] with r what the result lacks, (groups, k, out).
        read: E[x], (groups, k).
        wanted: E[y], (groups, out).
        count: how many vectors they are averaged over.
    """

    inputs: Tensor
    errors: Tensor
    read: Tensor
    wanted: Tensor
    count: int


def correct_weights(
    operator: WeightedOperator, read: Tensor, wanted: Tensor, quantizer: UniformQuantizer
) -> None:
    """Replace the weights by ones on the quantizer's grid that bring the results nearest to the wanted ones.

    In order: W ← W + ((H + λI)⁻¹ E[x rᵀ])ᵀ with r = y − Wx makes up for the error of the inputs (ERQ,
    activation part); the columns are rounded one after the other, the error of each passed on to those still
    to come (OPTQ, section 3); the bias takes what is left of the mean. Each of the first two is kept only if
    it brings images it has not seen nearer to their results.

    Args:
        read: what the operator reads in the quantized network, already quantized; (N, …).
        wanted: what it returned in the float network; (N, …).
        quantizer: of the weights, a scale an output channel.
    """
    seen = max(1, len(read) * 3 // 4)
    parts = _moments(operator, read[:seen], wanted[:seen])
    unseen = _moments(operator, read[seen:], wanted[seen:]) if seen < len(read) else None
    original = _matrix(operator)
    best, plan = torch.inf, (False, False)
    for choice in ((False, False), (False, True), (True, True)):
        tried = _solve(operator, parts, quantizer, *choice)
        error = _error(tried, original, unseen or parts)
        if error < best * (1 - 1e-6):
            best, plan = error, choice
    everything = _moments(operator, read, wanted) if unseen else parts
    matrix = _solve(operator, everything, quantizer, *plan)
    mean = everything.wanted - torch.einsum("gok,gk->go", matrix, everything.read)
    weight = operator.weight
    assert weight is not None
    operator.weight = _frozen(matrix.reshape(weight.shape).to(weight.dtype))
    operator.bias = _frozen(mean.reshape(-1).to(weight.dtype))


def least_error_weights(
    operator: WeightedOperator, read: Tensor, *, bits: int, safe: bool = False
) -> UniformQuantizer:
    """Symmetric, a scale an output channel, of least E[((W − Ŵ) x)²] as if channels were independent.

    Args:
        safe: from overflow on every processor, see `quantization.pairs`.
    """
    weight = operator.weight
    assert weight is not None
    matrix = _matrix(operator)
    moment = _vectors(operator, read).square().mean(dim=1).double()  # (groups, k)
    bound = weight.flatten(1).abs().amax(dim=1)
    base = UniformQuantizer.from_range(-bound, bound, bits=bits, scheme="symmetric", axis=0, narrow=True)
    base = overflow_safe(base, operator) if safe else base
    best = torch.full_like(base.scale, torch.inf, dtype=torch.float64)
    chosen = base.scale.clone()
    for factor in (*WIDER, *_SHRINKS) if isinstance(base, PairedQuantizer) else _SHRINKS:
        quantizer = base.at_scale(base.scale * factor)
        rounded = quantizer(weight).double().reshape(matrix.shape)
        error = ((rounded - matrix).square() * moment[:, None]).sum(dim=-1).flatten()
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, quantizer.scale, chosen)
    return base.at_scale(chosen)


def _solve(
    operator: WeightedOperator, moments: _Moments, quantizer: UniformQuantizer, ridge: bool, feedback: bool
) -> Tensor:
    """Weights (groups, out, k) on the grid."""
    matrix = _matrix(operator)
    if ridge:
        damped = _damped(moments.inputs, _RIDGE * (1 + 10 * matrix.shape[-1] / moments.count))
        matrix = matrix + torch.linalg.solve(damped, moments.errors).mT
    if not feedback:
        assert operator.weight is not None
        return quantizer(matrix.reshape(operator.weight.shape)).reshape(matrix.shape)
    return _round_in_turn(
        matrix, _damped(moments.inputs, _DAMPING), quantizer, _first_of_pair(operator, quantizer)
    )


def _round_in_turn(
    matrix: Tensor, second: Tensor, quantizer: UniformQuantizer, first_of_pair: Sequence[int | None]
) -> Tensor:
    """Column by column; the error of a column is spread over the later ones by the factor U of H⁻¹ = Uᵀ U.

    What lies beyond a block of columns gets the errors of the block together, in one product (OPTQ, 3.3).
    """
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(second)), upper=True)
    scale = quantizer.scale.double().reshape(matrix.shape[0], -1)
    left, whole, errors = matrix.clone(), torch.empty_like(matrix), torch.empty_like(matrix)
    for start in range(0, matrix.shape[-1], _BLOCK):
        stop = min(start + _BLOCK, matrix.shape[-1])
        for k in range(start, stop):
            rounded = (left[..., k] / scale).round().clamp(quantizer.qmin, quantizer.qmax)
            first = first_of_pair[k]
            if first is not None:
                rounded = rounded.clamp(*rest_of_pair(whole[..., first], quantizer))
            whole[..., k] = rounded
            errors[..., k] = (left[..., k] - rounded * scale) / upper[:, None, k, k]
            left[..., k + 1 : stop] -= errors[..., k, None] * upper[:, None, k, k + 1 : stop]
        left[..., stop:] -= errors[..., start:stop] @ upper[:, start:stop, stop:]
    return whole * scale[..., None]


def _first_of_pair(operator: WeightedOperator, quantizer: UniformQuantizer) -> list[int | None]:
    """For each column of the matrix the earlier one that bounds it, if the quantizer is one of pairs."""
    assert operator.weight is not None
    channels, kernel = operator.weight.shape[1], operator.weight[0, 0].numel()
    if not isinstance(quantizer, PairedQuantizer):
        return [None] * (channels * kernel)
    return [k - kernel if (k // kernel) % 2 else None for k in range(channels * kernel)]


def _damped(second: Tensor, share: float) -> Tensor:
    """H + λ I with λ a share of the mean of its diagonal."""
    k = second.shape[-1]
    mean = second.diagonal(dim1=1, dim2=2).mean(dim=-1).clamp_min(1e-12)
    return second + (share * mean)[:, None, None] * torch.eye(k, dtype=second.dtype)


def _error(matrix: Tensor, original: Tensor, moments: _Moments) -> float:
    """E[(y − Ŵx)²] but for a constant, the bias taking the mean: D H Dᵀ − 2 D E[x rᵀ] with D = Ŵ − W."""
    step = matrix - original
    quadratic = torch.einsum("gok,gkl,gol->", step, moments.inputs, step)
    return float(quadratic - 2 * torch.einsum("gok,gko->", step, moments.errors))


def _moments(operator: WeightedOperator, read: Tensor, wanted: Tensor) -> _Moments:
    x, y = _vectors(operator, read), _results(operator, wanted)
    matrix, count = _matrix(operator), x.shape[1]
    weights = _weights(operator, read, wanted, count)
    mean_x, mean_y = (weights @ x)[:, None], (weights @ y)[:, None]
    x, y = x - mean_x, y - mean_y
    weighted = (weights[:, None] * x).mT
    second = (weighted @ x).double()
    lacking = (weighted @ y).double() - second @ matrix.mT
    return _Moments(second, lacking, mean_x[:, 0].double(), mean_y[:, 0].double(), count)


def _weights(operator: WeightedOperator, read: Tensor, wanted: Tensor, count: int) -> Tensor:
    """What each of `count` vectors weighs, (count,), 1 in all; the same for those of one image."""
    by_variance = image_weights(wanted.flatten(1))
    lacking = (operator.compute([read], operator.weight) - wanted).flatten(1).double()
    error = (by_variance * lacking.square().mean(dim=1, keepdim=True)).clamp(max=_MOST)
    each = (by_variance / (1 + error / _LARGE).square()).repeat_interleave(count // len(wanted))
    return (each / each.sum()).to(wanted.dtype)


def _matrix(operator: WeightedOperator) -> Tensor:
    """The weights as (groups, out, k) in double precision."""
    assert operator.weight is not None
    groups = operator.groups if isinstance(operator, Convolution) else 1
    weight = operator.weight.detach().double()
    return weight.reshape(groups, len(weight) // groups, -1)


def _vectors(operator: WeightedOperator, x: Tensor) -> Tensor:
    """What each result is a product of the weights with: (groups, vectors, k)."""
    if isinstance(operator, Linear):
        return (x.mT if operator.left else x).reshape(1, -1, x.shape[-2 if operator.left else -1])
    assert operator.weight is not None
    kernel = operator.weight.shape[2:]
    if kernel.numel() == 1 and operator.stride == (1, 1) and operator.padding in {(0, 0), "valid"}:
        patches = x.flatten(2)
    else:
        patches = functional.unfold(
            x, tuple(kernel), dilation=operator.dilation, padding=_padding(operator), stride=operator.stride
        )
    N, _, L = patches.shape
    grouped = patches.reshape(N, operator.groups, -1, L)
    return grouped.permute(1, 0, 3, 2).reshape(operator.groups, N * L, -1)


def _results(operator: WeightedOperator, y: Tensor) -> Tensor:
    """The results in the same order: (groups, vectors, out)."""
    if isinstance(operator, Linear):
        return (y.mT if operator.left else y).reshape(1, -1, y.shape[-2 if operator.left else -1])
    N, channels = y.shape[:2]
    grouped = y.reshape(N, operator.groups, channels // operator.groups, -1)
    return grouped.permute(1, 0, 3, 2).reshape(operator.groups, -1, channels // operator.groups)


def _padding(operator: Convolution) -> tuple[int, int]:
    assert operator.weight is not None
    if not isinstance(operator.padding, str):
        return tuple(operator.padding)
    if operator.padding == "valid":
        return (0, 0)
    high, wide = (d * (k - 1) // 2 for d, k in zip(operator.dilation, operator.weight.shape[2:], strict=True))
    return (high, wide)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
