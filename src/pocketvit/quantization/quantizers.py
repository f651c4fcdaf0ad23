"""Quantizers: which real numbers a tensor may take, and the integers that stand for them.

A quantizer maps a tensor to the nearest numbers it can represent and passes gradients straight through where
nothing was clipped, so a network with quantizers in it computes what its integer form computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from pocketvit.core.errors import ConfigError

__all__ = ["BITS", "Quantizer", "Scheme", "UniformQuantizer", "fake_quantize"]

BITS = (2, 3, 4, 5, 6, 7, 8)
"""Widths that are supported; all of them are carried on 8-bit kernels."""

Scheme = Literal["symmetric", "asymmetric"]

_SMALLEST_SCALE = 1e-30
"""A tensor of zeros has no range; its quantizer still has to divide by something."""


class Quantizer(nn.Module, ABC):
    """Rounds a tensor to the numbers that its integers stand for; `bits` wide."""

    bits: int

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The nearest representable numbers, shape and type of `x`."""


class UniformQuantizer(Quantizer):
    """Evenly spaced numbers: x̂ = s · (clip(round(x / s) + z, qmin, qmax) − z).

    Attributes:
        scale: step s, shape () for the whole tensor or (channels,) along `axis`.
        zero_point: the integer z that stands for 0, as float32 of the shape of `scale`. Inside
            [qmin, qmax] unless a method asks otherwise: outside, the range does not contain 0 and an integer
            kernel cannot execute it.
        qmin: smallest integer.
        qmax: largest integer.
        axis: the dimension with a scale of its own for each index, or `None`.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, *, scale: Tensor, zero_point: Tensor | None = None, qmin: int, qmax: int, axis: int | None
    ) -> None:
        super().__init__()
        if scale.dim() != (0 if axis is None else 1):
            raise ValueError(f"A scale of shape {tuple(scale.shape)} does not fit axis {axis}.")
        scale = scale.detach().double().clamp(_SMALLEST_SCALE, torch.finfo(torch.float32).max).float()
        self.register_buffer("scale", scale)
        zero = torch.zeros_like(scale) if zero_point is None else zero_point.detach().float().round()
        self.register_buffer("zero_point", zero.expand_as(scale).clone())
        self.qmin, self.qmax, self.axis = qmin, qmax, axis
        self.bits = (qmax - qmin).bit_length()

    @classmethod
    def from_range(
        cls,
        low: Tensor,
        high: Tensor,
        *,
        bits: int,
        scheme: Scheme = "asymmetric",
        axis: int | None = None,
        narrow: bool = False,
    ) -> UniformQuantizer:
        """The quantizer whose numbers reach from `low` to `high`.

        The range is widened to contain 0, so that its zero point always fits (Q-HyViT, section III: a zero
        point that is clipped loses the whole range). Asymmetric integers are unsigned, symmetric ones signed.

        Args:
            low: smallest values, shape () or (channels,).
            high: largest values.
            narrow: leave out the smallest signed integer, as integer kernels like their weights.

        Raises:
            ConfigError: this width is not supported.
        """
        check_bits(bits)
        low, high = low.double().clamp_max(0), high.double().clamp_min(0)
        if scheme == "asymmetric":
            steps = 2**bits - 1
            scale = ((high - low) / steps).clamp_min(_SMALLEST_SCALE)
            return cls(scale=scale, zero_point=(-low / scale).round(), qmin=0, qmax=steps, axis=axis)
        half = 2 ** (bits - 1)
        bound = torch.maximum(-low, high)
        return cls(scale=bound / (half - 1), qmin=1 - half if narrow else -half, qmax=half - 1, axis=axis)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero_point, self.qmin, self.qmax, self.axis)

    def integers(self, x: Tensor) -> Tensor:
        """The integers that stand for `x`: int32, its shape."""
        scale, zero = (_along(part, x, self.axis) for part in (self.scale, self.zero_point))
        return (self(x) / scale + zero).round().to(torch.int32)

    def at_scale(self, scale: Tensor) -> Self:
        """The same grid with other steps, shape of `scale`."""
        return type(self)(
            scale=scale, zero_point=self.zero_point, qmin=self.qmin, qmax=self.qmax, axis=self.axis
        )

    def same_grid(self, other: UniformQuantizer) -> bool:
        """Whether both round to the same numbers."""
        mine, others = ((q.qmin, q.qmax, q.axis, q.scale.shape) for q in (self, other))
        return mine == others and torch.equal(
            torch.stack((self.scale, self.zero_point)), torch.stack((other.scale, other.zero_point))
        )

    @property
    def low(self) -> Tensor:
        """Smallest representable number, shape of `scale`."""
        return (self.qmin - self.zero_point) * self.scale

    @property
    def high(self) -> Tensor:
        """Largest representable number, shape of `scale`."""
        return (self.qmax - self.zero_point) * self.scale

    @property
    def scheme(self) -> Scheme:
        """Whether 0 stands in the middle."""
        return "symmetric" if self.qmin < 0 and not self.zero_point.any() else "asymmetric"

    @override
    def extra_repr(self) -> str:
        return f"bits={self.bits}, {self.scheme}, " + ("tensor" if self.axis is None else f"axis={self.axis}")


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, axis: int | None
) -> Tensor:
    """Round to the grid of `UniformQuantizer`; the gradient is 1, or 0 where `x` was clipped."""
    inside = bool(((zero_point >= qmin) & (zero_point <= qmax)).all())
    if x.dtype != torch.float32 or not inside:
        return _fake_quantize_anywhere(x, _along(scale, x, axis), _along(zero_point, x, axis), qmin, qmax)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), qmin, qmax)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point.int(), axis % x.dim(), qmin, qmax)


def _fake_quantize_anywhere(x: Tensor, scale: Tensor, zero: Tensor, qmin: int, qmax: int) -> Tensor:
    """The same for any float type and any zero point; torch's own kernel takes float32 only."""
    whole = (x / scale).detach().round() + zero
    rounded = ((whole.clamp(qmin, qmax) - zero) * scale).to(x.dtype)
    mask = ((whole >= qmin) & (whole <= qmax)).to(x.dtype)
    return (x - x.detach()) * mask + rounded


def check_bits(bits: int) -> None:
    """Refuse widths that no kernel here carries."""
    if bits not in BITS:
        raise ConfigError(
            f"{bits} bits are not supported.", fix=f"Choose from {', '.join(map(str, BITS))} bits."
        )


def _along(values: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """`values` in a shape that broadcasts along `axis` of `x`, in its type."""
    values = values.to(x.dtype)
    if axis is None:
        return values
    return values.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
