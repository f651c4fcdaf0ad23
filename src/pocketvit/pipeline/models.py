"""What `pocketvit models` lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.errors import UnknownNameError
from pocketvit.core.names import nearest
from pocketvit.deployment import rewrite_for_inference
from pocketvit.deployment.dataflow import trace_flow

__all__ = ["describe_models", "describe_rewrites"]


def describe_models(pattern: str, *, resolution: int | None, num_classes: int) -> list[dict[str, Any]]:
    """A row per registered model that matches, with its cost at `resolution`.

    Without one, and for models that take no other, the cost is that at the model's own size.

    Args:
        pattern: a name with wildcards, or any single name `get_entry` knows.

    Raises:
        UnknownNameError: nothing matches.
    """
    names = list_models(pattern)
    if not names and any(sign in pattern for sign in "*?["):
        close = nearest(pattern, list_models())
        raise UnknownNameError(
            f"There is no model matching '{pattern}'.",
            fix=f"Did you mean {' or '.join(close)}?" if close else "`pocketvit models` lists all.",
        )
    return [_describe(name, resolution, num_classes) for name in names or [get_entry(pattern).name]]


def describe_rewrites(name: str, *, resolution: int | None, num_classes: int) -> dict[str, Any]:
    """What exporting the model named `name` merges exactly, and its cost before and after.

    Raises:
        UnknownNameError: there is no such model.
        ExportError: the network cannot run at this size.
    """
    entry = get_entry(name)
    size = resolution or entry.preprocessing.size
    model = create_model(name, num_classes=num_classes)
    rewritten, rewrites = rewrite_for_inference(model, size=size)
    return {
        "name": entry.name,
        "resolution": size,
        "before": _cost(model, size),
        "after": _cost(rewritten, size),
        "rewrites": [rewrite.to_dict() for rewrite in rewrites],
    }


def _cost(model: nn.Module, size: int) -> dict[str, int]:
    cost = measure_complexity(model, size)
    activations = trace_flow(model, size=size).elements
    return {"params": cost.params, "macs": cost.macs, "activations": activations}


def _describe(name: str, resolution: int | None, num_classes: int) -> dict[str, Any]:
    entry = get_entry(name)
    size = resolution if resolution and entry.any_size else entry.preprocessing.size
    with torch.device("meta"):
        cost = measure_complexity(create_model(name, num_classes=num_classes), size)
    return {
        "name": entry.name,
        "family": entry.family,
        "resolution": size,
        "params": cost.params,
        "macs": cost.macs,
        "hub_weights": entry.hub,
        "code_licence": entry.code_licence,
        "weights_licence": entry.weights_licence,
        "source": entry.source,
    }
