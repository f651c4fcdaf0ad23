"""Exact rewrites: the same function with fewer parameters, multiplications and passes over memory.

Each rewrite is a function that changes a frozen copy of a network and says where. It applies only where the
algebra is exact: layers are merged when the run shows that nothing else reads what passes between them. In
real numbers the rewritten network computes what the trained one computes; in float64 they agree to 1e-9.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import Tensor, nn

from pocketvit.backbones.complexity import measure_complexity
from pocketvit.backbones.mobilevit import MobileViTBlock
from pocketvit.backbones.mobilevitv2 import MobileViTV2Block
from pocketvit.core.names import unknown_name
from pocketvit.deployment.dataflow import Call, Flow, trace_flow
from pocketvit.deployment.folding import (
    absorb_input_affine,
    affine_of,
    bias_of,
    is_fixed,
    scale_outputs,
    set_weights,
)
from pocketvit.deployment.inference_modules import (
    MapNorm,
    MergedAdditiveAttention,
    SplitConvolutionalMixer,
    TokenMobileViTBlock,
    TransposedSoftmaxAttention,
    UnfoldFreeBlock,
)
from pocketvit.mixers.additive import EfficientAdditiveAttention
from pocketvit.mixers.convolutional import ConvolutionalAdditiveMixer
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = ["REWRITES", "Rewrite", "rewrite_for_inference"]

_ADDITION, _POOLING = ("add", "__add__"), ("mean",)  # torch's names

Step = Callable[[nn.Module, Flow], list[str]]
"""Changes the model it is given; returns the names of the places that changed."""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """What one rewrite saved.

    Attributes:
        name: the function, a key of `REWRITES`.
        params_saved: learned numbers that are gone.
        macs_saved: multiply-accumulates of matrix products and convolutions for one image; a merge of whole
            passes over memory may cost a few.
        activations_saved: numbers that are no longer written to memory for one image.
        places: where it applied.
    """

    name: str
    params_saved: int
    macs_saved: int
    activations_saved: int
    places: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `export.json`: the number of places instead of their names."""
        return asdict(self) | {"places": len(self.places)}


def rewrite_for_inference(
    model: nn.Module, *, size: int, in_chans: int = 3, names: Iterable[str] | None = None
) -> tuple[nn.Module, list[Rewrite]]:
    """A copy of `model` in evaluation mode with every rewrite applied that fits, and what each saved.

    Args:
        size: height and width of the images; what reads what may depend on it.
        names: the rewrites to try, in their order; by default all.

    Raises:
        UnknownNameError: there is no rewrite of such a name.
        ExportError: the network cannot run on one image of this size.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    done: list[Rewrite] = []
    flow = trace_flow(network, size=size, in_chans=in_chans)
    before = _cost(network, flow, size, in_chans)
    for name in REWRITES if names is None else names:
        if name not in REWRITES:
            raise unknown_name("rewrite", name, REWRITES)
        places: list[str] = []
        while changed := REWRITES[name](network, flow):
            places += changed
            flow = trace_flow(network, size=size, in_chans=in_chans)
        if places:
            after = _cost(network, flow, size, in_chans)
            params, macs, elements = (old - new for old, new in zip(before, after, strict=True))
            before = after
            done.append(
                Rewrite(
                    name=name,
                    params_saved=params,
                    macs_saved=macs,
                    activations_saved=elements,
                    places=tuple(places),
                )
            )
    return network, done


def _cost(model: nn.Module, flow: Flow, size: int, in_chans: int) -> tuple[int, int, int]:
    cost = measure_complexity(copy.deepcopy(model).to(flow.device), size, in_chans)
    return cost.params, cost.macs, flow.elements


def fold_separable_norms(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViTv2: the scale and shift of each GroupNorm go into the 1×1 convolutions that read it.

    The key too: W (γx̂ + β) + b, and the scores that average x̂ sum to 1.
    """
    del flow
    places: list[str] = []
    for name, block in _modules(model, MobileViTV2Block):
        for layer in block.transformer:
            norm1, norm2, attn, mlp = (
                layer.get_submodule(part) for part in ("norm1", "norm2", "attn", "mlp")
            )
            places += _fold_affine(norm1, attn.get_submodule("qkv_proj"), f"{name}.norm1")
            places += _fold_affine(norm2, mlp.get_submodule("fc1"), f"{name}.norm2")
        places += _fold_affine(block.norm, block.conv_proj.conv, f"{name}.norm")
    return places


def fold_transformer_norms(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViT: the scale and shift of each LayerNorm go into the linear layer that reads it.

    For the block's last norm that is a 1×1 convolution; folding and resizing in between keep constants.
    """
    del flow
    places: list[str] = []
    for name, block in _modules(model, MobileViTBlock):
        for layer in block.transformer:
            norm1, norm2, attn, mlp = (
                layer.get_submodule(part) for part in ("norm1", "norm2", "attn", "mlp")
            )
            places += _fold_affine(norm1, attn.get_submodule("qkv"), f"{name}.norm1")
            places += _fold_affine(norm2, mlp.get_submodule("fc1"), f"{name}.norm2")
        places += _fold_affine(block.norm, block.conv_proj.conv, f"{name}.norm")
    return places


def map_separable_attention(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViTv2 without unfolding, with the key once a set: see `UnfoldFreeBlock`."""
    del flow
    return _replace(model, MobileViTV2Block, UnfoldFreeBlock)


def transpose_softmax_attention(model: nn.Module, flow: Flow) -> list[str]:
    """Softmax attention with fewer biases and no transposes of heads: see `TransposedSoftmaxAttention`."""
    del flow
    return _replace(model, SoftmaxAttention, TransposedSoftmaxAttention)


def unfold_tokens(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViT unfolds whole rows of channels: see `TokenMobileViTBlock`."""
    del flow
    return _replace(model, MobileViTBlock, TokenMobileViTBlock)


def split_convolutional_mixer(model: nn.Module, flow: Flow) -> list[str]:
    """CAS-ViT: query, key and value without copying parts: see `SplitConvolutionalMixer`."""
    del flow
    return _replace(model, ConvolutionalAdditiveMixer, SplitConvolutionalMixer)


def plain_group_norm(model: nn.Module, flow: Flow) -> list[str]:
    """Group normalisation of one group without scale and shift as one operator: see `MapNorm`."""
    del flow
    plain = [(n, m) for n, m in _modules(model, nn.GroupNorm) if m.num_groups == 1 and m.weight is None]
    for name, norm in plain:
        _put(model, name, MapNorm(norm))
    return [name for name, _ in plain]


def merge_additive_attention(model: nn.Module, flow: Flow) -> list[str]:
    """SwiftFormer's `final` after `proj` is one map: see `MergedAdditiveAttention`."""
    del flow
    return _replace(model, EfficientAdditiveAttention, MergedAdditiveAttention)


def fold_norm_after(model: nn.Module, flow: Flow) -> list[str]:
    """A batch normalisation that alone reads a convolution or linear layer goes into it."""
    places: list[str] = []
    for name, layer in _owned(model, nn.Conv2d, nn.Linear):
        reader = flow.next_module(name)
        norm = model.get_submodule(reader.name) if reader else None
        if reader is None or not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or not is_fixed(norm):
            continue
        if isinstance(layer, nn.Linear) and len(reader.shape) > 2:
            continue  # such a norm reads the dimension after the first as channels
        scale, shift = affine_of(norm)
        scale_outputs(layer, scale)
        set_weights(layer, layer.weight, bias_of(layer) + shift)
        _put(model, reader.name, getattr(norm, "act", nn.Identity()))  # timm's norms bring their activation
        places.append(reader.name)
    return places


def fold_norm_before(model: nn.Module, flow: Flow) -> list[str]:
    """A batch normalisation goes into all that read it: 1×1 convolutions, or a classifier after the mean.

    Not into padded convolutions: zeros around the image are not the zeros before the shift.
    """
    places: list[str] = []
    owned = dict(_owned(model, nn.Conv2d, nn.Linear))
    for name, norm in list(_modules(model, nn.BatchNorm2d)):
        call = flow.call_of(name)
        readers = _linear_readers(flow, call, owned) if call and type(norm) is nn.BatchNorm2d else []
        if not readers or not is_fixed(norm):
            continue
        scale, shift = affine_of(norm)
        for reader in readers:
            absorb_input_affine(owned[reader], scale, shift)
        _put(model, name, nn.Identity())
        places.append(name)
    return places


def fold_layer_scale(model: nn.Module, flow: Flow) -> list[str]:
    """A learned factor a channel goes into the convolution or linear layer before it."""
    places: list[str] = []
    for name, layer in _owned(model, nn.Conv2d, nn.Linear):
        reader = flow.next_module(name)
        scale = model.get_submodule(reader.name) if reader else None
        if reader is None or "LayerScale" not in type(scale).__name__:
            continue
        gamma = cast(Tensor, cast(nn.Module, scale).gamma).flatten()
        channels_last = isinstance(layer, nn.Linear)
        if gamma.numel() != len(layer.weight) or reader.shape[-1 if channels_last else 1] != gamma.numel():
            continue
        scale_outputs(layer, gamma)
        _put(model, reader.name, nn.Identity())
        places.append(reader.name)
    return places


def compose_linear_maps(model: nn.Module, flow: Flow) -> list[str]:
    """Two linear maps with nothing between them are one, where that is not more work.

    1×1 convolution after 1×1 convolution, or a classifier after the mean over the pixels of one.
    """
    owned = dict(_owned(model, nn.Conv2d, nn.Linear))
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
        _put(model, name, nn.Identity())
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
    _put(model, "head_dist", _Zero())
    return ["head_dist"]


class _Zero(nn.Module):
    """What is left of a classifier whose logits another one includes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


REWRITES: dict[str, Step] = {
    step.__name__: step
    for step in (
        fold_separable_norms,
        plain_group_norm,
        map_separable_attention,
        fold_transformer_norms,
        unfold_tokens,
        transpose_softmax_attention,
        merge_additive_attention,
        split_convolutional_mixer,
        fold_norm_after,
        fold_norm_before,
        fold_layer_scale,
        compose_linear_maps,
        average_classifiers,
    )
}
"""All rewrites, in an order in which each finds what the ones before it opened up."""


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


def _fold_affine(norm: Any, layer: Any, place: str) -> list[str]:
    """Move the affine part of a group or layer normalisation into the linear map that reads it."""
    if norm.weight is None:
        return []
    absorb_input_affine(layer, norm.weight, norm.bias)
    norm.weight = norm.bias = None
    return [place]


def _owned(model: nn.Module, *kinds: type[nn.Module]) -> list[tuple[str, Any]]:
    """Modules of these kinds whose weights no other module shares."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in kinds and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    ]


def _modules(model: nn.Module, kind: type[Any]) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kind)]


def _replace(model: nn.Module, kind: type[Any], by: Callable[[Any], nn.Module]) -> list[str]:
    found = [(name, module) for name, module in _modules(model, kind) if name]
    for name, module in found:
        _put(model, name, by(module).eval())
    return [name for name, _ in found]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module.eval())
