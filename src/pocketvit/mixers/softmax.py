"""Multi-head softmax attention (Vaswani et al. 2017, section 3.2), patch-wise as MobileViT uses it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.mixers.patches import fold, unfold

__all__ = ["SoftmaxAttention"]


class SoftmaxAttention(nn.Module):
    """Multi-head softmax attention.

    For each set of N tokens x (N, C), with d = C / heads and for each head::

        Q, K, V = x W_q + b_q, x W_k + b_k, x W_v + b_v        (N, d) each
        head    = softmax_over_keys(Q Kᵀ / sqrt(d)) V          (N, d)
        out     = concat(heads) W_o + b_o                      (N, C)

    With `patch` p > 1 a pixel attends only to pixels at the same position inside their p×p patch
    (MobileViT, section 3.1): p² sets of HW/p² tokens instead of one set of HW.

    Args:
        dim: channels C.
        heads: number of heads, 4 as in MobileViT; divides C.
        patch: patch side p; divides H and W. 1 is attention between all pixels.

    Shape:
        `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, *, dim: int, heads: int = 4, patch: int = 1) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} channels.")
        self.heads = heads
        self.patch = patch
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        _, _, H, W = x.shape
        tokens = self.forward_tokens(unfold(x, patch=self.patch).flatten(0, 1))
        return fold(tokens.unflatten(0, (-1, self.patch**2)), patch=self.patch, size=(H, W))

    def forward_tokens(self, x: Tensor) -> Tensor:
        """The same for sets of tokens `(sets, N, C)`; the sets do not see each other."""
        q, k, v = (self._split_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        x = F.scaled_dot_product_attention(q, k, v)  # (sets, heads, N, C / heads)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
