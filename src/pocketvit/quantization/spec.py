"""What a user asks of quantization."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from pocketvit.core.config import Config
from pocketvit.quantization.quantizers import check_bits

__all__ = ["MIXED", "OperatorBits", "QuantizationSpec", "Runtime", "Scope"]

Scope = Literal["partial", "full"]
Runtime = Literal["onnxruntime", "openvino"]

MIXED = "mixed"
"""What numbers of several widths are called."""


class OperatorBits(Config):
    """Widths of one operator, where they differ from the rest."""

    weights: int
    activations: int

    @field_validator("weights", "activations")
    @classmethod
    def _supported(cls, bits: int) -> int:
        check_bits(bits)
        return bits


class QuantizationSpec(Config):
    """How to quantize a network.

    Attributes:
        method: a key of `METHODS`.
        weights: bits of the weights.
        activations: bits of what the operators read.
        scope: `partial` quantizes convolutions, linear maps, matrix products, additions, products and sums;
            `full` also norms, softmax and activation functions.
        keep_float: names or patterns of operators that stay in float.
        runtime: what will execute the integers: what else its kernels round is rounded too, and what it has
            no use for in integers stays in float (`quantization.kernels`). `None` is the setting of papers:
            whatever an operator reads is rounded, nothing else.
        bits: widths of single operators by name; the rest have `weights` and `activations`.
        seed: of whatever the method draws.
    """

    method: str = "pocket"
    weights: int = 8
    activations: int = 8
    scope: Scope = "partial"
    keep_float: tuple[str, ...] = ()
    runtime: Runtime | None = None
    bits: dict[str, OperatorBits] = Field(default_factory=dict)
    seed: int = 0

    @field_validator("weights", "activations")
    @classmethod
    def _supported(cls, bits: int) -> int:
        check_bits(bits)
        return bits

    def weight_bits(self, operator: str) -> int:
        """Bits of the weights of an operator."""
        return self.bits[operator].weights if operator in self.bits else self.weights

    def activation_bits(self, operator: str) -> int:
        """Bits of what an operator reads."""
        return self.bits[operator].activations if operator in self.bits else self.activations

    @property
    def precision(self) -> str:
        """As in names of files: `int8`, `w4a8` where weights and activations differ, `mixed`."""
        if self.bits:
            return MIXED
        same = self.weights == self.activations
        return f"int{self.weights}" if same else f"w{self.weights}a{self.activations}"

    @property
    def label(self) -> str:
        """As in tables: `W8A8`."""
        return f"W{self.weights}A{self.activations}" + ("*" if self.bits else "")
