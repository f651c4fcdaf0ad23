"""Normalisation in integers (FQ-ViT, arXiv 2111.13824, section 3.2), for tokens and for maps."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Norm
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["POWERS", "IntegerNorm", "power_of_two_factors"]

POWERS = (0, 1, 2, 3)
"""α of the scale s · 2^α that each channel may have."""

_MULTIPLIER_BITS = 8
_LARGEST_SHIFT = 31


def power_of_two_factors(x: Tensor, *, bits: int, axis: int) -> UniformQuantizer:
    """Asymmetric scales s · 2^α, α from 0 to 3 for each channel by least squared error, and one zero point.

    8 s covers the range of the whole tensor, whose zero point all channels share. FQ-ViT's program takes
    dimension 2 for channels, which is right for tokens only.

    Args:
        axis: the dimension of channels.
    """
    whole = UniformQuantizer.from_range(*x.aminmax(), bits=bits)
    zero = whole.zero_point.expand(x.shape[axis])
    candidates = [
        UniformQuantizer(
            scale=(whole.scale.double() * 2.0 ** (power - POWERS[-1])).expand(x.shape[axis]),
            zero_point=zero, qmin=whole.qmin, qmax=whole.qmax, axis=axis,
        )
        for power in POWERS
    ]  # fmt: skip
    errors = [(q(x) - x).double().square_().movedim(axis, 0).flatten(1).mean(dim=1) for q in candidates]
    best = torch.stack(errors).argmin(dim=0)
    scales = torch.stack([q.scale for q in candidates]).gather(0, best[None])[0]
    return UniformQuantizer(scale=scales, zero_point=zero, qmin=whole.qmin, qmax=whole.qmax, axis=axis)


class IntegerNorm(Norm):
    """Layer or group normalisation of integers, as a multiplication and a shift for each channel.

    With X the integers of the input in units of the smallest scale s, n of them in a group, Σ over the group
    (tokens: channels; maps: channels of a group and all pixels), and s_o the scale of the output::

        μ = s ΣX / n      σ = s √(n ΣX² − (ΣX)²) / n
        A = s γ / (σ s_o)      N = clip(7 − ⌊log₂|A|⌋, 0, 31)      M = ⌊|A| 2^N⌋
        out = s_o round((sign(A) M X + round((β − μ γ / σ) 2^N / s_o)) / 2^N)

    ε is left out as in FQ-ViT's program; where all X of a group are equal, β is returned.

    Args:
        norm: the norm in float, with its input quantizer.
        output_scale: s_o, shape ().
    """

    output_scale: Tensor

    def __init__(self, norm: Norm, *, output_scale: Tensor) -> None:
        super().__init__(
            name=norm.name,
            module=norm.module,
            groups=norm.groups,
            channels=norm.channels,
            eps=norm.eps,
            weight=norm.weight,
            bias=norm.bias,
        )
        self.set_input(0, norm.input_quantizers[0])
        self.register_buffer("output_scale", output_scale.detach().clone())

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        grid = self.input_quantizers[0]
        if not self.quantized or grid is None:
            return super().forward(*inputs)
        assert isinstance(grid, UniformQuantizer)
        x = grid(inputs[0])
        exact = self.compute([x], self.weight)  # for its gradient
        return (exact - exact.detach()) + self._integers(x.detach(), grid).to(x.dtype)

    def _integers(self, x: Tensor, grid: UniformQuantizer) -> Tensor:
        """The output of `x`, which lies on the grid; float64."""
        step = grid.scale.double().min()
        # groups last, so that tokens and maps are alike: (…, groups, n)
        axis = self.channel_axis(x)
        moved = (x.double() / step).round().long().movedim(axis, 1 if self.groups else -1)
        groups = self.groups or 1
        kept = 1 if self.groups else moved.dim() - 1
        whole = moved.reshape(*moved.shape[:kept], groups, -1)
        count = whole.shape[-1]
        total = whole.sum(-1, keepdim=True)
        radicand = count * whole.square().sum(-1, keepdim=True).double() - total.double().square()
        precision = torch.where(radicand > 0, count / radicand.clamp_min(1).sqrt(), 0.0)  # s / σ
        scale, shift = (self._rows(part, whole) for part in self._affine())
        factor = precision * scale / self.output_scale
        bits, multiplier = _dyadic(factor)
        power = torch.exp2(bits)
        addend = ((shift / self.output_scale - total / count * factor) * power).round()
        out = ((factor.sign() * multiplier * whole + addend) / power).round() * self.output_scale
        return out.reshape(moved.shape).movedim(1 if self.groups else -1, axis)

    def _affine(self) -> tuple[Tensor, Tensor]:
        """γ and β, float64."""
        ones = torch.ones(self.channels, dtype=torch.float64)
        scale = ones if self.weight is None else self.weight.double()
        return scale, torch.zeros_like(ones) if self.bias is None else self.bias.double()

    def _rows(self, values: Tensor, whole: Tensor) -> Tensor:
        """A value a channel, in a shape that broadcasts over (…, groups, n)."""
        per_group = values.reshape(self.groups or 1, -1)
        pixels = whole.shape[-1] // per_group.shape[-1]
        return per_group.repeat_interleave(pixels, dim=1)


def _dyadic(factor: Tensor) -> tuple[Tensor, Tensor]:
    """N and the 8-bit M of |factor| ≈ M / 2^N."""
    size = factor.abs().clamp_min(torch.finfo(torch.float64).tiny)
    exponent = torch.frexp(size).exponent.double() - 1  # ⌊log₂⌋, exactly
    bits = (_MULTIPLIER_BITS - 1 - exponent).clamp(0, _LARGEST_SHIFT)
    return bits, (factor.abs() * torch.exp2(bits)).floor().clamp_max(2**_MULTIPLIER_BITS - 1)
