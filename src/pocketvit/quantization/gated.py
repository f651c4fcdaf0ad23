"""SiLU and GELU as ONNX Runtime computes them between integers: a table for a sigmoid, then a product."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Activation
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["SLOPES", "GatedActivation"]

SLOPES = {"silu": 1.0, "gelu": 1.702}
"""By function: a in x · σ(a x). SiLU is just that; GELU within 0.0204 (Hendrycks & Gimpel, section 2)."""


class GatedActivation(Activation):
    """x · q(σ(a x)), where q rounds to multiples of 1/255.

    ONNX Runtime looks the sigmoid of an 8-bit integer up in a table and multiplies integers; in float the
    function would first turn every integer into a float, and back. Whoever reads the product rounds it.

    Attributes:
        slope: a.
        gate: q.
    """

    def __init__(self, activation: Activation) -> None:
        super().__init__(
            name=activation.name,
            module=activation.module,
            target=activation.target,
            arguments=activation.arguments,
            options=activation.options,
        )
        self.slope = SLOPES[activation.function]
        self.gate = UniformQuantizer(scale=torch.tensor(1 / 255), qmin=0, qmax=255, axis=None)

    @property
    def arithmetic(self) -> str:
        """What is computed in the place of the function; nothing where it is that function."""
        return "" if self.slope == 1 else f"{self.function.upper()} as x·σ({self.slope:g} x)"

    @property
    @override
    def has_quantizers(self) -> bool:
        return True

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = self.quantized_inputs(inputs)
        result = x * self.gate((self.slope * x).sigmoid()) if self.quantized else self.compute([x], None)
        return self.output(result) if self.output is not None and self.quantized else result
