"""From a network of modules to the functions of torch that it calls, by torch's exporter."""

from __future__ import annotations

import warnings

import torch
from torch import fx, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from pocketvit.core.errors import ExportError

__all__ = ["trace"]


def trace(model: nn.Module, *, size: int, in_chans: int) -> fx.GraphModule:
    """The graph of `model` for any number of images (N, in_chans, size, size).

    Raises:
        ExportError: the network cannot be traced into a graph, or only into one for a fixed number of images.
    """
    example = torch.zeros(2, in_chans, size, size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
            )
    except Exception as error:  # the exporter raises many kinds, from several layers of torch
        raise ExportError(
            f"{type(model).__name__} cannot be traced into a graph: {str(error).splitlines()[0]}",
            fix="Run again with --debug for the exporter's own report.",
        ) from error
    if _images_are_fixed(program):
        raise ExportError(
            f"{type(model).__name__} turns the number of images into a number of Python's, which fixes it.",
            fix="In its forward, write x.shape[0] in the place of len(x) or int(x.shape[0]).",
        )
    traced = program.module()
    assert isinstance(traced, fx.GraphModule)
    return traced


def _images_are_fixed(program: torch.export.ExportedProgram) -> bool:
    (image,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == image)
    return is_concrete_int(node.meta["val"].shape[0])
