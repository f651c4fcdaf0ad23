"""Finding modules in a network and putting others in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["modules_of", "owned_modules", "put", "replace_each"]


def modules_of(model: nn.Module, kind: type[Any]) -> list[tuple[str, Any]]:
    """All modules of a kind with their dotted names; the network itself is none of them."""
    return [(name, module) for name, module in model.named_modules() if name and isinstance(module, kind)]


def owned_modules(model: nn.Module, *kinds: type[nn.Module]) -> list[tuple[str, Any]]:
    """Modules of exactly these kinds whose weights no other module shares."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    return [
        (name, module)
        for name, module in model.named_modules()
        if type(module) in kinds and all(owners[id(p)] == 1 for p in module.parameters(recurse=False))
    ]


def replace_each(
    model: nn.Module,
    kind: type[Any],
    build: Callable[[Any], nn.Module],
    *,
    fits: Callable[[Any], bool] | None = None,
) -> list[str]:
    """Put `build(module)` in the place of each module of a kind that `fits`; by default all do.

    Returns:
        The names of the places.
    """
    found = [(name, module) for name, module in modules_of(model, kind) if fits is None or fits(module)]
    for name, module in found:
        put(model, name, build(module))
    return [name for name, _ in found]


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module`, in evaluation mode, at the dotted `name`."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module.eval())
