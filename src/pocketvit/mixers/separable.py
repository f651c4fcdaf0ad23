"""Separable self-attention: MobileViTv2 (Mehta & Rastegari 2023), section 3.2."""

from __future__ import annotations

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
        self.out_proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        _, _, H, W = x.shape
        tokens = self.forward_tokens(unfold_channels(x, patch=self.patch))
        return fold_channels(tokens, patch=self.patch, size=(H, W))

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The same for token sets `(B, C, P, N)`; the P sets do not see each other."""
        q, k, v = self.qkv_proj(x).split((1, self.dim, self.dim), dim=1)
        context = (k * F.softmax(q, dim=-1)).sum(dim=-1, keepdim=True)  # (B, C, P, 1)
        return self.out_proj(F.relu(v) * context)
