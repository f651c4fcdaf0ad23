"""What `pocketvit models` lists."""

from __future__ import annotations

from typing import Any

import torch

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.names import unknown_name

__all__ = ["describe_models"]


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
        raise unknown_name("model matching", pattern, list_models(), see="`pocketvit models` lists all.")
    return [_describe(name, resolution, num_classes) for name in names or [get_entry(pattern).name]]


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
