"""Any mixer where the MobileViT papers have theirs: among the pixels at the same place of every patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.mixers.patches import fold_channels, unfold_channels, whole_patches

__all__ = ["PatchwiseMixer"]


class PatchwiseMixer(nn.Module):
    """A mixer applied to each set of pixels with the same position inside their p×p patch.

    Such a set is itself a feature map, every p-th pixel of every p-th row: p² maps of one p²-th of the
    pixels, which do not see each other. The mixer gets them as further images of the batch. Where p does not
    divide H and W the maps differ in size and the mixer gets them one after the other, so batch
    normalisations in it then see one map at a time while training.

    Args:
        mixer: maps `(B, C, H, W)` to the same shape.
        patch: patch side p.

    Shape:
        `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, mixer: nn.Module, *, patch: int) -> None:
        super().__init__()
        self.mixer = mixer
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        _, _, H, W = x.shape
        height, width = size = whole_patches(x, patch=self.patch)
        rows, columns = height // self.patch, width // self.patch
        if size != (H, W):
            sets = torch.stack([self._mix_padded(each, rows, columns) for each in self._sets(x)], dim=2)
            return fold_channels(sets.flatten(3), patch=self.patch, size=size)[:, :, :H, :W]
        sets = unfold_channels(x, patch=self.patch).transpose(1, 2)  # (B, P, C, N)
        mixed = self.mixer(sets.flatten(0, 1).unflatten(-1, (rows, columns)))
        mixed = mixed.flatten(2).unflatten(0, (-1, self.patch**2)).transpose(1, 2)
        return fold_channels(mixed, patch=self.patch, size=size)

    def _sets(self, x: Tensor) -> list[Tensor]:
        p = self.patch
        return [x[:, :, row::p, column::p] for row in range(p) for column in range(p)]

    def _mix_padded(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """One set mixed, then filled up with zeros to the size of the largest; a set may be empty."""
        _, _, H, W = x.shape
        mixed = self.mixer(x) if H and W else x
        return F.pad(mixed, (0, columns - W, 0, rows - H))
