"""Softmax in integers: the exponential as a polynomial and a shift."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Softmax
from pocketvit.quantization.quantizers import UniformQuantizer, check_bits

__all__ = ["Exponential", "IntegerSoftmax", "linear", "log_round", "second_order"]

Exponential = Callable[[Tensor, float], Tensor]
"""`(r, s)`: whole numbers in proportion to exp(r s), for whole numbers r with −ln 2 < r s ≤ 0."""

_SHIFT = 30
_FINEST = 2.0**-5
"""Steps are halved, and integers doubled, until they are no coarser: the polynomials round their constants to
whole steps. 8-bit scores seldom need it, at 6 bits and less nothing would be left of the constants."""


def second_order(r: Tensor, step: float) -> Tensor:
    """0.35815147 x² + 0.96963238 x + 1 (FQ-ViT's constants, after I-BERT, arXiv 2101.01321, section 3.5)."""
    a, b, c = 0.35815147, 0.96963238, 1.0
    return r * (r + float(math.floor(b / a / step))) + float(math.floor(c / a / step**2))


def linear(r: Tensor, step: float) -> Tensor:
    """0.08947606 x + 0.12121466, an eighth of the exponential (HyQ's constants)."""
    a, b = 0.08947606, 0.12121466
    return r + float(math.floor(b / a / step))


class IntegerSoftmax(Softmax):
    """Softmax over whole numbers.

    With X the integers of the scores minus their largest, s their scale and Q = ⌊−ln 2 / s⌋::

        q = ⌊X / Q⌋      r = X − q Q      E = ⌊exponential(r) 2^(30−q)⌋
        out = E / ΣE                                     or, with `logarithm`,
        out = 2^−k,  k = log₂ of round(ΣE / E), rounded up from 1.5 · 2^⌊log₂⌋ on, 0 where k does not fit

    Sources: FQ-ViT (arXiv 2111.13824), section 3.3, log-int-softmax; the linear one from HyQ's program.

    Args:
        softmax: in float, with its input quantizer, which has one scale for the whole tensor.
        exponential: `second_order` or `linear`.
        logarithm: bits of the powers of 2 that are returned; `None` returns the quotient.
    """

    def __init__(self, softmax: Softmax, *, exponential: Exponential, logarithm: int | None = None) -> None:
        super().__init__(name=softmax.name, module=softmax.module, dim=softmax.dim, mask=softmax.mask)
        if logarithm is not None:
            check_bits(logarithm)
        self.set_input(0, softmax.input_quantizers[0])
        self.exponential, self.logarithm = exponential, logarithm

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        grid = self.input_quantizers[0]
        if not self.quantized or grid is None:
            return super().forward(*inputs)
        assert isinstance(grid, UniformQuantizer)
        x = grid(inputs[0])
        exact = self.compute([x], None)  # for its gradient
        return (exact - exact.detach()) + self._integers(x.detach(), float(grid.scale)).to(x.dtype)

    def _integers(self, x: Tensor, step: float) -> Tensor:
        """The output for scores on the grid; float64."""
        whole = (x.double() / step).round()
        if self.mask is not None:
            whole = whole + self.mask.double() / step
        finer = max(0, math.ceil(math.log2(step / _FINEST)))
        whole, step = (whole - whole.amax(self.dim, keepdim=True)) * 2.0**finer, step / 2**finer
        half = float(math.floor(-math.log(2) / step))
        whole = whole.clamp_min(_SHIFT * half)
        quotient = (whole / half).floor()
        parts = self.exponential(whole - half * quotient, step) * torch.exp2(_SHIFT - quotient)
        parts = parts.floor().clamp_min(0)
        total = parts.sum(self.dim, keepdim=True)
        if self.logarithm is None:
            return parts / total
        exponents = log_round((total / parts).round())
        return torch.where(exponents < 2**self.logarithm - 1, torch.exp2(-exponents), 0.0)


def log_round(x: Tensor) -> Tensor:
    """⌊log₂ x⌋, or one more from 1.5 times that power of 2 on; ∞ stays ∞."""
    finite = torch.isfinite(x)
    mantissa, exponent = torch.frexp(torch.where(finite, x, 1.0))  # x = mantissa · 2^exponent, from ½ on
    return torch.where(finite, exponent.double() - 1 + (mantissa >= 0.75).double(), torch.inf)
