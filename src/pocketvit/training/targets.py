"""Soft targets: label smoothing, mixup and CutMix give each image a distribution over the classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

__all__ = ["SoftTargets"]


class SoftTargets:
    """Turns a batch of images and class indices into images and class probabilities.

    Label smoothing (Szegedy et al. 2016, section 7): y' = (1 - ε) y + ε / C.
    mixup (Zhang et al. 2018): x' = λ xᵢ + (1 - λ) xⱼ, y' = λ yᵢ + (1 - λ) yⱼ, λ ~ Beta(α, α).
    CutMix (Yun et al. 2019): a box of xⱼ is pasted into xᵢ, λ is the share of xᵢ that is left.

    Draws from torch's global generator.

    Args:
        num_classes: C.
        label_smoothing: ε.
        mixup: α of mixup, 0 for none.
        cutmix: α of CutMix, 0 for none; with both, each batch draws one of them.
    """

    def __init__(self, *, num_classes: int, label_smoothing: float, mixup: float, cutmix: float) -> None:
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        mixes: list[v2.Transform] = []
        if mixup:
            mixes.append(v2.MixUp(alpha=mixup, num_classes=num_classes))
        if cutmix:
            mixes.append(v2.CutMix(alpha=cutmix, num_classes=num_classes))
        self._mix = v2.RandomChoice(mixes) if mixes else None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and class indices (B,) to images of the same shape and probabilities (B, C)."""
        if self._mix is None:
            targets = F.one_hot(labels, self.num_classes).to(images.dtype)
        else:
            images, targets = self._mix(images, labels)
        uniform = torch.full_like(targets, 1 / self.num_classes)
        return images, targets.lerp(uniform, self.label_smoothing)
