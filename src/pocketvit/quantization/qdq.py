"""ONNX's QuantizeLinear and DequantizeLinear as operators that torch can trace.

They have shapes and no arithmetic in torch. `torch.onnx.ops.symbolic` writes the same graph, but traces
twice as long, and a quantized network has two or three pairs for each of its operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from onnxscript import opset20
from torch import Tensor

__all__ = ["TRANSLATIONS", "dequantize", "quantize", "round_to_grid"]


def round_to_grid(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`scale * (clip(round(x / scale) + zero_point) - zero_point)`, clipped to the type of `zero_point`."""
    return torch.ops.pocketvit.round_to_grid(x, scale, zero_point)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """`clip(round(x / scale) + zero_point)`, integers of the type of `zero_point`."""
    return torch.ops.pocketvit.quantize(x, scale, zero_point)


def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> Tensor:
    """`scale * (integers - zero_point)`; one scale for each index of dimension `axis`, or one for all."""
    return torch.ops.pocketvit.dequantize(integers, scale, zero_point, axis)


torch.library.define("pocketvit::round_to_grid", "(Tensor x, Tensor scale, Tensor zero_point) -> Tensor")
torch.library.define("pocketvit::quantize", "(Tensor x, Tensor scale, Tensor zero_point) -> Tensor")
torch.library.define(
    "pocketvit::dequantize", "(Tensor integers, Tensor scale, Tensor? zero_point, int? axis) -> Tensor"
)


@torch.library.register_fake("pocketvit::round_to_grid")
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("pocketvit::quantize")
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.register_fake("pocketvit::dequantize")
def _(integers: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> Tensor:
    return torch.empty_like(integers, dtype=scale.dtype)


def _write_rounding(x: Any, scale: Any, zero_point: Any) -> Any:
    integers: Any = opset20.QuantizeLinear(x, scale, zero_point)
    return opset20.DequantizeLinear(integers, scale, zero_point)


def _write_quantization(x: Any, scale: Any, zero_point: Any) -> Any:
    return opset20.QuantizeLinear(x, scale, zero_point)


def _write_dequantization(integers: Any, scale: Any, zero_point: Any = None, axis: int | None = None) -> Any:
    if axis is None:
        return opset20.DequantizeLinear(integers, scale, zero_point)
    return opset20.DequantizeLinear(integers, scale, zero_point, axis=axis)


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.pocketvit.round_to_grid.default: _write_rounding,
    torch.ops.pocketvit.quantize.default: _write_quantization,
    torch.ops.pocketvit.dequantize.default: _write_dequantization,
}
"""How `torch.onnx.export` writes them: its `custom_translation_table`."""
