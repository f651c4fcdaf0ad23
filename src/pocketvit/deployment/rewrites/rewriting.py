"""All rewrites in order, and what each saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.names import unknown_name
from pocketvit.deployment.dataflow import Flow, trace_flow
from pocketvit.deployment.rewrites.merging import (
    average_classifiers,
    compose_linear_maps,
    fold_layer_scale,
    fold_norm_after,
    fold_norm_before,
    fold_separable_norms,
    fold_transformer_norms,
)
from pocketvit.deployment.rewrites.replacing import (
    map_separable_attention,
    merge_additive_attention,
    plain_group_norm,
    split_convolutional_mixer,
    split_softmax_attention,
    unfold_tokens,
)

__all__ = ["REWRITES", "Rewrite", "apply_rewrites", "rewrite_for_inference"]

Step = Callable[[nn.Module, Flow], list[str]]
"""Changes the model it is given; returns the names of the places that changed."""

REWRITES: dict[str, Step] = {
    step.__name__: step
    for step in (
        fold_separable_norms,
        plain_group_norm,
        map_separable_attention,
        fold_transformer_norms,
        unfold_tokens,
        split_softmax_attention,
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
    before = _cost(network, trace_flow(network, size=size, in_chans=in_chans), size, in_chans)
    for name, places, flow in _apply(network, size, in_chans, names):
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


def apply_rewrites(
    model: nn.Module, *, size: int, in_chans: int = 3, names: Iterable[str] | None = None
) -> nn.Module:
    """`rewrite_for_inference` without counting what was saved, which takes as long as rewriting does."""
    network = copy.deepcopy(model).eval().requires_grad_(False)
    for _ in _apply(network, size, in_chans, names):
        pass
    return network


def _apply(
    network: nn.Module, size: int, in_chans: int, names: Iterable[str] | None
) -> Iterator[tuple[str, list[str], Flow]]:
    """Change `network`; after each rewrite that applied, its name, its places and what feeds what now."""
    flow = trace_flow(network, size=size, in_chans=in_chans)
    for name in REWRITES if names is None else names:
        if name not in REWRITES:
            raise unknown_name("rewrite", name, REWRITES)
        places: list[str] = []
        while changed := REWRITES[name](network, flow):
            places += changed
            flow = trace_flow(network, size=size, in_chans=in_chans)
        if places:
            yield name, places, flow


def _cost(model: nn.Module, flow: Flow, size: int, in_chans: int) -> tuple[int, int, int]:
    cost = measure_complexity(copy.deepcopy(model).to(flow.device), size, in_chans)
    return cost.params, cost.macs, flow.elements
