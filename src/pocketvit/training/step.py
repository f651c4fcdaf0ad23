"""One optimizer step: the body of the training loop, and of the benchmark that compares its speed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pocketvit.training.precision import MixedPrecision

__all__ = ["seed_step", "train_step"]


def train_step(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    precision: MixedPrecision,
    clip_grad: float | None = None,
) -> float | None:
    """Forward, backward, clip, update.

    Args:
        loss: outputs and targets to a scalar.
        images: (B, 3, S, S), on the model's device.
        targets: what `loss` wants, such as class probabilities (B, C).
        clip_grad: largest L2 norm of the gradient; None does not clip.

    Returns:
        The loss; None when the loss or the gradient was not finite. Then the model is as it was before: its
        parameters were not updated, and what the forward pass did to BatchNorm's running statistics is taken
        back.
    """
    statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    before = torch.cat([buffer.flatten() for buffer in statistics]) if statistics else None

    with precision.autocast():
        outputs = model(images)  # (B, C)
    value = loss(outputs, targets)

    scaler = precision.scaler  # does nothing unless the precision is float16
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip_grad or math.inf)
    # An infinite float16 gradient only tells the scaler to scale less: its step skips itself.
    finite = bool(value.isfinite() & (norm.isfinite() | scaler.is_enabled()))
    if finite:
        scaler.step(optimizer)
    elif before is not None:
        for buffer, kept in zip(statistics, before.split([b.numel() for b in statistics]), strict=True):
            buffer.copy_(kept.view_as(buffer))
    scaler.update()
    optimizer.zero_grad()
    return value.item() if finite else None


def seed_step(seed: int, step: int) -> None:
    """Give step `step` of a run its own random numbers, for mixing and dropout.

    With this no generator state has to be saved: a resumed run draws what the uninterrupted one would have.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))
