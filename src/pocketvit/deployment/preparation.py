"""From a trained network to the graph that is quantized."""

from __future__ import annotations

from torch import nn

from pocketvit.deployment.onnx import frozen_copy
from pocketvit.deployment.rewrites import REWRITES, apply_rewrites
from pocketvit.quantization import QuantizedNetwork, capture

__all__ = ["prepare_for_quantization"]

_NOT_BEFORE_QUANTIZATION = {"fold_separable_norms", "fold_transformer_norms", "plain_group_norm"}
"""Methods move ranges between channels through the scale and shift of a norm, so norms keep them."""


def prepare_for_quantization(model: nn.Module, *, size: int, in_chans: int = 3) -> QuantizedNetwork:
    """The graph of operators of a network, rewritten exactly for inference, nothing quantized yet.

    Args:
        size: height and width of the images.

    Raises:
        ExportError: the network cannot be traced into a graph.
    """
    names = [name for name in REWRITES if name not in _NOT_BEFORE_QUANTIZATION]
    # in double precision, so that every merged weight is rounded once
    rewritten = apply_rewrites(frozen_copy(model).double(), size=size, in_chans=in_chans, names=names)
    return capture(frozen_copy(rewritten), size=size, in_chans=in_chans)
