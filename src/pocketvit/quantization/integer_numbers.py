"""The numbers that a lowered network holds and rounds to: grids of activations, stored weights and biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pocketvit.quantization.qdq import dequantize, quantize, round_to_grid
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["Grid", "Rounding", "StoredFloats", "StoredIntegers", "more_channels"]


class Rounding(nn.Module):
    """The numbers of a quantizer, without integers."""

    scale: Tensor

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        zero = float(quantizer.zero_point)
        self.register_buffer("scale", quantizer.scale.clone())
        self.bounds = quantizer.qmin - zero, quantizer.qmax - zero

    def forward(self, x: Tensor) -> Tensor:
        """The nearest representable numbers."""
        return (x / self.scale).clamp(*self.bounds).round() * self.scale


class Grid(nn.Module):
    """Rounds to a grid of unsigned 8-bit integers, of which narrower grids use a part.

    Those are clipped to their part after rounding: before it, the clip would stand between a convolution and
    the integers that it writes, which ONNX Runtime would not merge. It comes first (`clips_first`) where two
    roundings would follow each other, of which ONNX Runtime makes a third. OpenVINO 2026.4 computes other
    numbers with the clip behind; and it adds the zero point before it rounds, in single precision, so that
    what is close to a half may move by a step, and steps are large where they are few. There, numbers are on
    the grid before they become integers (`rounds_first`).

    Attributes:
        from_zero: whether the integers are read as if 0 stood for 0, all numbers too large by the same.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        # Signed integers are moved up by 128: kernels for unsigned ones exist everywhere and are the faster.
        shift = 128 if quantizer.qmin < 0 else 0
        self.register_buffer("scale", quantizer.scale.clone())
        self.register_buffer("zero_point", (quantizer.zero_point + shift).to(torch.uint8))
        full = (quantizer.qmin + shift, quantizer.qmax + shift) == (0, 255)
        self.bounds = None if full else (float(quantizer.low), float(quantizer.high))
        self.in_float = Rounding(quantizer)
        self.clips_first = self.rounds_first = self.from_zero = False

    def forward(self, x: Tensor) -> Tensor:
        """The nearest representable numbers."""
        if self.bounds is None:
            return self._round(x)
        if self.rounds_first:
            return self._round(self.in_float(x))
        if self.clips_first:
            return self._round(x.clamp(*self.bounds))
        return self._round(self._round(x).clamp(*self.bounds))

    def keep_in_place(self, channels: int) -> None:
        """Give arithmetic before the rounding a scale for each of the last dimension, all the same.

        OpenVINO 2026.4 moves arithmetic with one number into the attention before it, and then exchanges the
        tokens and heads of what that returns wherever there are as many of them.
        """
        self.in_float.scale = self.in_float.scale.expand(channels).clone()

    def scaled(self, x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """The nearest representable numbers, and these times `factor`."""
        if self.bounds is not None or factor == 1:
            x = self(x)
            return x, factor * x
        integers = quantize(x, self.scale, self.zero_point)
        plain, scaled = (dequantize(integers, self.scale * f, self.zero_point, None) for f in (1, factor))
        return plain, scaled

    def _round(self, x: Tensor) -> Tensor:
        if self.from_zero:
            return dequantize(quantize(x, self.scale, self.zero_point), self.scale, None, None)
        return round_to_grid(x, self.scale, self.zero_point)


class StoredIntegers(nn.Module):
    """Fixed integers and what they stand for.

    Attributes:
        zero_point: zeros, of 8-bit integers only: ONNX Runtime's matrix product asks its weights for them.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale.float())
        zeros = torch.zeros_like(scale, dtype=torch.int8) if integers.dtype == torch.int8 else None
        self.register_buffer("zero_point", zeros)

    def forward(self) -> Tensor:
        """The numbers."""
        return dequantize(self.integers, self.scale, self.zero_point, axis=0 if self.scale.dim() else None)

    def widen(self, axis: int, by: int) -> None:
        """Add zeros along `axis`, on the scale of the last channel."""
        self.integers = more_channels(self.integers, axis, by)
        if axis == 0 and self.scale.dim():
            self.scale = torch.cat([self.scale, self.scale[-1:].expand(by)])
            if self.zero_point is not None:
                self.zero_point = more_channels(self.zero_point, 0, by)


class StoredFloats(nn.Module):
    """Fixed numbers that stay as they are."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self) -> Tensor:
        """The numbers."""
        return self.value

    def widen(self, axis: int, by: int) -> None:
        """Add zeros along `axis`."""
        self.value = more_channels(self.value, axis, by)


def more_channels(values: Tensor, axis: int, by: int) -> Tensor:
    """`values` with as many zeros behind them along `axis`."""
    shape = list(values.shape)
    shape[axis] = by
    return torch.cat([values, values.new_zeros(shape)], dim=axis)
