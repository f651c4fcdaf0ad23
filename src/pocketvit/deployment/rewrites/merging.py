"""Rewrites that put one layer into another."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from pocketvit.backbones.mobilevit import MobileViTBlock
from pocketvit.backbones.mobilevitv2 import MobileViTV2Block
from pocketvit.deployment.dataflow import Call, Flow
from pocketvit.deployment.folding import (
    absorb_input_affine,
    affine_of,
    bias_of,
    is_fixed,
    scale_outputs,
    set_weights,
)
from pocketvit.deployment.rewrites.surgery import modules_of, owned_modules, put

__all__ = [
    "average_classifiers",
    "compose_linear_maps",
    "fold_layer_scale",
    "fold_norm_after",
    "fold_norm_before",
    "fold_separable_norms",
    "fold_transformer_norms",
]

_ADDITION, _POOLING = ("add", "__add__"), ("mean",)  # torch's names


def fold_separable_norms(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViTv2: the scale and shift of each GroupNorm go into the 1×1 convolutions that read it.

    The key too: W (γx̂ + β) + b, and the scores that average x̂ sum to 1.
    """
    del flow
    return _fold_block_norms(model, MobileViTV2Block, projection="qkv_proj")


def fold_transformer_norms(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViT: the scale and shift of each LayerNorm go into the linear layer that reads it.

    For the block's last norm that is a 1×1 convolution; folding and resizing in between keep constants.
    """
    del flow
    return _fold_block_norms(model, MobileViTBlock, projection="qkv")


def _fold_block_norms(model: nn.Module, kind: type[Any], *, projection: str) -> list[str]:
    """The norms of a block's layers, and its last; `projection` reads the input of an attention."""
    places: list[str] = []
    for name, block in modules_of(model, kind):
        for number, layer in enumerate(block.transformer):
            place = f"{name}.transformer.{number}"
            if hasattr(layer.attn, projection):  # else the attention was replaced already
                places += _fold_affine(layer.norm1, getattr(layer.attn, projection), f"{place}.norm1")
            places += _fold_affine(layer.norm2, layer.mlp.fc1, f"{place}.norm2")
        places += _fold_affine(block.norm, block.conv_proj.conv, f"{name}.norm")
    return places


def _fold_affine(norm: Any, layer: Any, place: str) -> list[str]:
    """Move the affine part of a group or layer normalisation into the linear map that reads it."""
    if norm.weight is None:
        return []
    absorb_input_affine(layer, norm.weight, norm.bias)
    norm.weight = norm.bias = None
    return [place]


def fold_norm_after(model: nn.Module, flow: Flow) -> list[str]:
    """A batch normalisation that alone reads a convolution or linear layer goes into it."""
    places: list[str] = []
    for name, layer in owned_modules(model, nn.Conv2d, nn.Linear):
        reader = flow.next_module(name)
        norm = model.get_submodule(reader.name) if reader else None
        if reader is None or not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or not is_fixed(norm):
            continue
        if isinstance(layer, nn.Linear) and len(reader.shape) > 2:
            continue  # such a norm reads the dimension after the first as channels
        scale, shift = affine_of(norm)
        scale_outputs(layer, scale)
        set_weights(layer, layer.weight, bias_of(layer) + shift)
        put(model, reader.name, getattr(norm, "act", nn.Identity()))  # timm's norms bring their activation
        places.append(reader.name)
    return places


def fold_norm_before(model: nn.Module, flow: Flow) -> list[str]:
    """A batch normalisation goes into all that read it: 1×1 convolutions, or a classifier after the mean.

    Not into padded convolutions: zeros around the image are not the zeros before the shift.
    """
    places: list[str] = []
    owned = dict(owned_modules(model, nn.Conv2d, nn.Linear))
    for name, norm in list(modules_of(model, nn.BatchNorm2d)):
        call = flow.call_of(name)
        readers = _linear_readers(flow, call, owned) if call and type(norm) is nn.BatchNorm2d else []
        if not readers or not is_fixed(norm):
            continue
        scale, shift = affine_of(norm)
        for reader in readers:
            absorb_input_affine(owned[reader], scale, shift)
        put(model, name, nn.Identity())
        places.append(name)
    return places


def fold_layer_scale(model: nn.Module, flow: Flow) -> list[str]:
    """A learned factor a channel goes into the convolution or linear layer before it."""
    places: list[str] = []
    for name, layer in owned_modules(model, nn.Conv2d, nn.Linear):
        reader = flow.next_module(name)
        scale = model.get_submodule(reader.name) if reader else None
        if reader is None or "LayerScale" not in type(scale).__name__:
            continue
        gamma = cast(Tensor, cast(nn.Module, scale).gamma).flatten()
        channels_last = isinstance(layer, nn.Linear)
        if gamma.numel() != len(layer.weight) or reader.shape[-1 if channels_last else 1] != gamma.numel():
            continue
        scale_outputs(layer, gamma)
        put(model, reader.name, nn.Identity())
        places.append(reader.name)
    return places


def compose_linear_maps(model: nn.Module, flow: Flow) -> list[str]:
    """Two linear maps with nothing between them are one, where that is not more work.

    1×1 convolution after 1×1 convolution, or a classifier after the mean over the pixels of one.
    """
    owned = dict(owned_modules(model, nn.Conv2d, nn.Linear))
    for name, first in owned.items():
        call = flow.call_of(name)
        if call is None or not _is_pointwise(first) or first.stride != (1, 1):
            continue
        readers = _linear_readers(flow, call, owned)
        second = owned[readers[0]] if len(readers) == 1 else None
        if second is None or not _saves_work(first, second, pixels=call.shape[2] * call.shape[3]):
            continue
        inner, outer = first.weight.flatten(1), second.weight.flatten(1)
        weight = (outer @ inner).reshape(len(outer), -1, *second.weight.shape[2:])
        set_weights(second, weight, outer @ bias_of(first) + bias_of(second))
        put(model, name, nn.Identity())
        return [name]  # one at a time: the next may begin where this one ended
    return []


def average_classifiers(model: nn.Module, flow: Flow) -> list[str]:
    """Two linear classifiers whose logits are averaged are one: (W₁x + b₁ + W₂x + b₂) / 2."""
    first, second = (getattr(model, name, None) for name in ("head", "head_dist"))
    call, other = (flow.call_of(name) for name in ("head", "head_dist"))
    if not isinstance(first, nn.Linear) or not isinstance(second, nn.Linear) or not call or not other:
        return []
    sums = flow.readers(call)
    alike = first.weight.shape == second.weight.shape and call.inputs == other.inputs
    if not alike or len(sums) != 1 or sums != flow.readers(other) or sums[0].name not in _ADDITION:
        return []
    # The network itself goes on to halve the sum.
    set_weights(first, first.weight + second.weight, bias_of(first) + bias_of(second))
    put(model, "head_dist", _Zero())
    return ["head_dist"]


class _Zero(nn.Module):
    """What is left of a classifier whose logits another one includes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def _linear_readers(flow: Flow, call: Call, owned: dict[str, Any]) -> list[str]:
    """The linear maps that read `call`, if only such do: directly, or through a mean over the pixels."""
    found: list[str] = []
    for reader in flow.readers(call):
        layer = owned.get(reader.name) if reader.is_module and flow.call_of(reader.name) else None
        if (_is_unpadded(layer) and len(call.shape) == 4) or (
            isinstance(layer, nn.Linear) and len(call.shape) == 2
        ):
            found.append(reader.name)
        elif reader.name in _POOLING and reader.shape == call.shape[:2] and len(call.shape) == 4:
            through = _linear_readers(flow, reader, owned)
            if not through:
                return []
            found += through
        else:
            return []
    return found


def _saves_work(first: Any, second: Any, *, pixels: int) -> bool:
    if isinstance(second, nn.Linear):
        work = first.weight.numel() * pixels + second.weight.numel()
    elif _is_pointwise(second) and second.stride == (1, 1):
        work = first.weight.numel() + second.weight.numel()
    else:
        return False
    return first.in_channels * len(second.weight) <= work


def _is_unpadded(layer: Any) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.padding in ((0, 0), "valid")


def _is_pointwise(layer: Any) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and _is_unpadded(layer)
        and layer.kernel_size == (1, 1)
        and layer.groups == 1
    )
