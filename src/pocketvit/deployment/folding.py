"""Algebra on the weights of one convolution or linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["absorb_input_affine", "affine_of", "bias_of", "is_fixed", "scale_outputs", "set_weights"]


def is_fixed(norm: Any) -> bool:
    """Whether a batch normalisation is a scale and a shift a channel: it has statistics of its own."""
    return norm.running_mean is not None and norm.running_var is not None


def affine_of(norm: Any) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C,) each, of a batch normalisation in evaluation mode."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def absorb_input_affine(layer: Any, scale: Tensor, shift: Tensor) -> None:
    """Make `layer(x)` what `layer(scale * x + shift)` was, a scale and a shift an input channel."""
    weight = layer.weight.flatten(2) if layer.weight.dim() > 2 else layer.weight[..., None]
    groups = getattr(layer, "groups", 1)
    outputs, inputs, _ = weight.shape
    shifts = (
        shift.reshape(groups, 1, inputs, 1).expand(-1, outputs // groups, -1, 1).reshape(outputs, inputs, 1)
    )
    scales = (
        scale.reshape(groups, 1, inputs, 1).expand(-1, outputs // groups, -1, 1).reshape(outputs, inputs, 1)
    )
    bias = bias_of(layer) + (weight * shifts).sum(dim=(1, 2))
    set_weights(layer, (weight * scales).reshape(layer.weight.shape), bias)


def scale_outputs(layer: Any, scale: Tensor) -> None:
    """Make `layer(x)` what `scale * layer(x)` was, a factor an output channel."""
    weight = layer.weight * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    set_weights(layer, weight, None if layer.bias is None else layer.bias * scale)


def bias_of(layer: Any) -> Tensor:
    """The bias, zeros where there is none."""
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias


def set_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> None:
    """Give a convolution or linear layer other weights, and the sizes that follow from them."""
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = len(weight), weight.shape[1] * layer.groups
    else:
        layer.out_features, layer.in_features = weight.shape
