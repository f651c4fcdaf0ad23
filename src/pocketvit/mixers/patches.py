"""Between a feature map and the patches of the MobileViT papers.

Both MobileViT versions let a pixel attend only to the pixels at the same position inside their own patch: a
map cut into p×p patches holds P = p² independent sets of N = (H/p)(W/p) tokens, one token from every patch.
Pixel (h, w) is token n = (h div p)·(W/p) + (w div p) of set (h mod p)·p + (w mod p).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "fold",
    "fold_channels",
    "membership",
    "unfold",
    "unfold_channels",
    "whole_patches",
]


def whole_patches(x: Tensor, *, patch: int) -> tuple[int, int]:
    """Height and width of a feature map rounded up to whole patches."""
    _, _, H, W = x.shape
    return math.ceil(H / patch) * patch, math.ceil(W / patch) * patch


def membership(x: Tensor, *, patch: int) -> Tensor:
    """Which pixels of a feature map stand at which position in their patch, `(P, HW)` of true and false.

    Defined at any H and W: patches at the lower and right border may be cut.
    """
    _, _, H, W = x.shape
    row = torch.arange(H, device=x.device) % patch
    column = torch.arange(W, device=x.device) % patch
    position = (row[:, None] * patch + column).flatten()
    return position == torch.arange(patch * patch, device=x.device)[:, None]


def unfold(x: Tensor, *, patch: int) -> Tensor:
    """Feature map `(B, C, H, W)` to token sets `(B, P, N, C)`; `patch` divides H and W."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // patch, patch, W // patch, patch).permute(0, 3, 5, 2, 4, 1)
    return x.reshape(B, patch * patch, (H // patch) * (W // patch), C)


def fold(tokens: Tensor, *, patch: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `unfold`: `(B, P, N, C)` to `(B, C, *size)`."""
    B, _, _, C = tokens.shape
    height, width = size
    x = tokens.reshape(B, patch, patch, height // patch, width // patch, C)
    return x.permute(0, 5, 3, 1, 4, 2).reshape(B, C, height, width)


def unfold_channels(x: Tensor, *, patch: int) -> Tensor:
    """Feature map `(B, C, H, W)` to token sets with the channels first, `(B, C, P, N)`."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // patch, patch, W // patch, patch).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(B, C, patch * patch, (H // patch) * (W // patch))


def fold_channels(tokens: Tensor, *, patch: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `unfold_channels`: `(B, C, P, N)` to `(B, C, *size)`."""
    B, C, _, _ = tokens.shape
    height, width = size
    x = tokens.reshape(B, C, patch, patch, height // patch, width // patch)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(B, C, height, width)
