"""SiLU as ONNX Runtime computes it between integers: a table for the sigmoid, then a product."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from pocketvit.quantization.operators import Activation
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["GatedSiLU"]


class GatedSiLU(Activation):
    """x · q(σ(x)), where q rounds to multiples of 1/255.

    ONNX Runtime looks the sigmoid of an 8-bit integer up in a table and multiplies integers; SiLU in float
    would first turn every integer into a float, and back. Whoever reads the product rounds it.

    Attributes:
        gate: q.
    """

    def __init__(self, silu: Activation) -> None:
        super().__init__(
            name=silu.name,
            module=silu.module,
            target=silu.target,
            arguments=silu.arguments,
            options=silu.options,
        )
        self.gate = UniformQuantizer(scale=torch.tensor(1 / 255), qmin=0, qmax=255, axis=None)

    @property
    @override
    def has_quantizers(self) -> bool:
        return True

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = self.quantized_inputs(inputs)
        result = x * self.gate(x.sigmoid()) if self.quantized else self.compute([x], None)
        return self.output(result) if self.output is not None and self.quantized else result
