"""Separable self-attention: MobileViTv2 (Mehta & Rastegari 2023), section 3.2."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.mixers.patches import fold_channels, membership, unfold_channels, whole_patches

__all__ = ["SeparableSelfAttention"]


class SeparableSelfAttention(nn.Module):
    """Attention of every token with one latent token; cost is linear in the number of tokens.

    For each set of N tokens x (N, C)::

        s   = softmax over the tokens of (x W_q + b_q)             (N, 1)
        c   = Σₙ sₙ (W_k xₙ + b_k)                                 (1, C)
        out = (relu(x W_v + b_v) ⊙ c) W_o + b_o                    (N, C)

    With `patch` p > 1 a pixel attends only to pixels at the same position inside their p×p patch
    (section 3.3): p² sets of HW/p² tokens instead of one set of HW. Where p does not divide H and W, the
    patches at the lower and right border hold fewer pixels and the sets differ in size.

    The scores of a set sum to 1, so c = W_k (Σₙ sₙ xₙ) + b_k: the key projection runs once a set instead of
    once a token, in training too. Set `collapse_key` to false for the equation as it stands above.

    Args:
        dim: channels C.
        patch: patch side p. 1 is attention between all pixels.

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
        if whole_patches(x, patch=self.patch) != (H, W):
            return self._forward_cut_patches(x)
        tokens = self.forward_tokens(unfold_channels(x, patch=self.patch))
        return fold_channels(tokens, patch=self.patch, size=(H, W))

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The same for token sets `(B, C, P, N)`; the P sets do not see each other."""
        q, v = self._score_and_value(x)
        scores = F.softmax(q, dim=-1)  # (B, 1, P, N)
        context = self._context(x, lambda tokens: (tokens * scores).sum(dim=-1, keepdim=True))
        return self.out_proj(F.relu(v) * context)

    def _forward_cut_patches(self, x: Tensor) -> Tensor:
        q, v = self._score_and_value(x)
        member = membership(x, patch=self.patch)  # (P, HW)
        # the lowest finite score, not -inf: a position may have no pixel, and a softmax of -inf has no value
        scores = F.softmax(torch.where(member, q.flatten(2), torch.finfo(q.dtype).min), dim=-1)
        context = self._context(x, lambda tokens: (tokens.flatten(2) @ scores.mT)[..., None])
        context = context.squeeze(-1) @ member.to(context.dtype)  # (B, C, HW): that of each pixel's position
        return self.out_proj(F.relu(v) * context.view_as(v))

    def _score_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w_qv, _ = self._qv_and_k(self.qkv_proj.weight)
        b_qv, _ = self._qv_and_k(cast(Tensor, self.qkv_proj.bias))
        q, v = F.conv2d(x, w_qv, b_qv).split((1, self.dim), dim=1)
        return q, v

    def _context(self, x: Tensor, weighted_mean: Callable[[Tensor], Tensor]) -> Tensor:
        """The c of each set, `(B, C, P, 1)`; `weighted_mean` is Σₙ sₙ · of each."""
        _, w_k = self._qv_and_k(self.qkv_proj.weight)
        _, b_k = self._qv_and_k(cast(Tensor, self.qkv_proj.bias))
        if self.collapse_key:
            return F.conv2d(weighted_mean(x), w_k, b_k)
        return weighted_mean(F.conv2d(x, w_k, b_k))

    def _qv_and_k(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = qkv[:1], qkv[1 : 1 + self.dim], qkv[1 + self.dim :]
        return torch.cat((q, v)), k
