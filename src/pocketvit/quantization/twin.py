"""Twin uniform quantizers: two evenly spaced grids, and a bit to tell which (PTQ4ViT, section 3.1).

Softmax returns many small numbers and few large ones, GELU and its kin a long positive and a short negative
side; one step for both wastes most integers. Two steps in one tensor need two integer products, which no
kernel of ONNX Runtime or OpenVINO does: networks with these quantizers are simulated.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Activation
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer, check_bits

__all__ = ["DIPPING", "TwinUniformQuantizer", "lowest_value"]

DIPPING = ("gelu", "silu", "hardswish")
"""Activation functions with a short negative side that ends at a minimum and a long positive one."""


class TwinUniformQuantizer(Quantizer):
    """One uniform grid below a boundary and another from it on.

    x̂ = high(x) where x ≥ boundary, low(x) elsewhere. The regions are masked: summing what both grids make of
    a number would add the boundary to every number above it.

    Attributes:
        boundary: where the regions meet, shape ().
        low: grid of the numbers below.
        high: grid of the others.
    """

    boundary: Tensor

    def __init__(self, *, boundary: float, low: UniformQuantizer, high: UniformQuantizer, bits: int) -> None:
        super().__init__()
        check_bits(bits)
        self.register_buffer("boundary", torch.tensor(boundary))
        self.low, self.high, self.bits = low, high, bits

    @classmethod
    def for_softmax(cls, *, split: float, bits: int) -> TwinUniformQuantizer:
        """For numbers from 0 to 1: 2^(bits−1) − 1 steps up to `split`, and as many up to 1 above it.

        Raises:
            ConfigError: this width is not supported.
        """
        check_bits(bits)
        steps = 2 ** (bits - 1) - 1
        low, high = (
            UniformQuantizer(
                scale=torch.tensor(reach / steps, dtype=torch.float64), qmin=0, qmax=steps, axis=None
            )
            for reach in (split, 1.0)
        )
        return cls(boundary=split, low=low, high=high, bits=bits)

    @classmethod
    def for_activation(cls, *, scale: Tensor, lowest: float, bits: int) -> TwinUniformQuantizer:
        """For what an activation function returns: steps of `scale` above 0, |lowest| / 2^(bits−1) below.

        Args:
            scale: shape ().
            lowest: the function's minimum, below 0.

        Raises:
            ConfigError: this width is not supported.
        """
        check_bits(bits)
        half = 2 ** (bits - 1)
        step = torch.tensor(-lowest / half, dtype=torch.float64)
        low = UniformQuantizer(scale=step, qmin=-half, qmax=0, axis=None)
        high = UniformQuantizer(scale=scale, qmin=0, qmax=half - 1, axis=None)
        return cls(boundary=0.0, low=low, high=high, bits=bits)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= self.boundary, self.high(x), self.low(x))

    @override
    def extra_repr(self) -> str:
        return f"bits={self.bits}, boundary={float(self.boundary):g}"


def lowest_value(activation: Activation) -> float:
    """The minimum of a function in `DIPPING`: −0.16997 of GELU, −0.27846 of SiLU, −0.375 of Hardswish."""
    x = torch.linspace(-4, 0, 1 << 16, dtype=torch.float64)
    return float(activation.compute([x], None).min())
