"""Logarithmic quantizers: powers of 2 or of √2, for what softmax returns.

Small weights of attention keep their relative precision, and a product with a power of 2 is a shift. No
kernel of ONNX Runtime or OpenVINO does that: networks with these quantizers are simulated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.quantizers import Quantizer, check_bits

__all__ = ["LogarithmicQuantizer"]


class LogarithmicQuantizer(Quantizer):
    """Numbers δ · 2^(−q / k) for q = 0 … 2^bits − 2, and 0 for the last integer: q = round(−k · log₂(x / δ)).

    k = 1 gives powers of 2 (FQ-ViT, arXiv 2111.13824, section 3.3), k = 2 powers of √2 (RepQ-ViT,
    arXiv 2212.08254, section 3.3). Both papers' programs keep all 2^bits powers and give 0 besides, which is
    one number more than the bits can tell apart; here the smallest power makes room for it.

    Attributes:
        scale: δ, the largest representable number, shape ().
        steps: k, the number of steps that halve a number.
    """

    scale: Tensor

    def __init__(self, *, scale: Tensor | float, bits: int, steps: int) -> None:
        super().__init__()
        check_bits(bits)
        smallest = torch.finfo(torch.float32).tiny
        scale = torch.as_tensor(scale, dtype=torch.float64).detach()
        self.register_buffer("scale", scale.clamp(smallest, torch.finfo(torch.float32).max).float())
        self.bits, self.steps = bits, steps

    @property
    def zero(self) -> int:
        """The integer that stands for 0."""
        return 2**self.bits - 1

    @property
    def levels(self) -> Tensor:
        """The number that each integer stands for, (2^bits,), float64."""
        powers = self.scale.double() * torch.exp2(-torch.arange(self.zero, dtype=torch.float64) / self.steps)
        return torch.cat([powers, powers.new_zeros(1)])

    def integers(self, x: Tensor) -> Tensor:
        """The integers that stand for `x`, which is not negative: int32, its shape."""
        exponents = -self.steps * (x.double() / self.scale).log2()  # ∞ for 0
        return exponents.round().clamp(0, self.zero).to(torch.int32)

    @override
    def forward(self, x: Tensor) -> Tensor:
        whole = self.integers(x.detach())
        rounded = self.levels.to(x.dtype)[whole]
        inside = ((whole < self.zero) & (x.detach() <= self.scale)).to(x.dtype)
        return (x - x.detach()) * inside + rounded

    @override
    def extra_repr(self) -> str:
        return f"bits={self.bits}, steps={self.steps}, scale={float(self.scale):g}"
