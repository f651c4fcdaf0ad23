"""Separable self-attention: MobileViTv2 (Mehta & Rastegari 2023), section 3.2."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.mixers.patches import fold_channels, unfold_channels

__all__ = ["SeparableSelfAttention"]


class SeparableSelfAttention(nn.Module):
    """Attention of every token with one latent token; cost is linear in the number of tokens.

    For each set of N tokens x (N, C)::

        s   = softmax over the tokens of (x W_q + b_q)             (N, 1)
        c   = Σₙ sₙ (W_k xₙ + b_k)                                 (1, C)
        out = (relu(x W_v + b_v) ⊙ c) W_o + b_o                    (N, C)

    With `patch` p > 1 a pixel attends only to pixels at the same position inside their p×p patch
    (section 3.3): p² sets of HW/p² tokens instead of one set of HW.

    The scores of a set sum to 1, so c = W_k (Σₙ sₙ xₙ) + b_k: the key projection runs once a set instead of
    once a token, in training too. Set `collapse_key` to false for the equation as it stands above.

    Args:
        dim: channels C.
        patch: patch side p; divides H and W. 1 is attention between all pixels.

    Shape:
        `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, *, dim: int, patch: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.patch = patch
        self.qkv_proj = nn.Conv2d(dim, 1 + 2 * dim, 1)
        self.collapse_key = True
        self.out_proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        _, _, H, W = x.shape
        tokens = self.forward_tokens(unfold_channels(x, patch=self.patch))
        return fold_channels(tokens, patch=self.patch, size=(H, W))

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The same for token sets `(B, C, P, N)`; the P sets do not see each other."""
        w_qv, w_k = self._qv_and_k(self.qkv_proj.weight)
        b_qv, b_k = self._qv_and_k(cast(Tensor, self.qkv_proj.bias))
        q, v = F.conv2d(x, w_qv, b_qv).split((1, self.dim), dim=1)
        scores = F.softmax(q, dim=-1)  # (B, 1, P, N)
        if self.collapse_key:
            context = F.conv2d(_weighted_mean(x, scores), w_k, b_k)  # (B, C, P, 1)
        else:
            context = _weighted_mean(F.conv2d(x, w_k, b_k), scores)
        return self.out_proj(F.relu(v) * context)

    def _qv_and_k(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = qkv[:1], qkv[1 : 1 + self.dim], qkv[1 + self.dim :]
        return torch.cat((q, v)), k


def _weighted_mean(x: Tensor, scores: Tensor) -> Tensor:
    return (x * scores).sum(dim=-1, keepdim=True)
