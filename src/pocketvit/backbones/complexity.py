"""Parameters and multiply-accumulates of a network."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pocketvit.mixers.separable import SeparableSelfAttention

__all__ = ["Complexity", "measure_complexity"]

_NORMS = {nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm}
_ACTIVATIONS = {nn.GELU, nn.SiLU, nn.Sigmoid, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid}
_FREE = _NORMS | _ACTIVATIONS
"""Layers that keep the shape and have no product that is counted. Tracing them takes half of the time."""


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """How big a network is.

    Attributes:
        params: learned numbers, batch-normalisation scales and shifts included.
        macs: multiply-accumulates of convolutions, linear layers and matrix products for one image.
    """

    params: int
    macs: int


def measure_complexity(model: nn.Module, size: int, in_chans: int = 3) -> Complexity:
    """Count the parameters, and the MACs of one `size` × `size` image.

    Counted as the papers count: `SeparableSelfAttention` never computes the key of every token but is
    charged for it, so that the numbers can be compared with published ones.

    A model built under `torch.device("meta")` is counted without computing anything.
    """
    like = next(model.parameters())
    images = torch.empty(1, in_chans, size, size, device=like.device, dtype=like.dtype)
    training = [module for module in model.modules() if module.training]
    collapsed = [m for m in model.modules() if isinstance(m, SeparableSelfAttention) and m.collapse_key]
    counter = FlopCounterMode(display=False)
    model.eval()
    try:
        _set_collapse_key(collapsed, False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _passing(model), counter:
            model(images)
    finally:
        _set_collapse_key(collapsed, True)
        for module in training:
            module.training = True
    return Complexity(
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
    )


@contextmanager
def _passing(model: nn.Module) -> Generator[None]:
    """Let layers that cost nothing return what they are given."""
    layers = [m for m in model.modules() if type(m) in _FREE and "forward" not in m.__dict__]
    for layer in layers:
        layer.forward = nn.Identity().forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _set_collapse_key(mixers: list[SeparableSelfAttention], collapse: bool) -> None:
    for mixer in mixers:
        mixer.collapse_key = collapse
