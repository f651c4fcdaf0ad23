"""Efficient additive attention: SwiftFormer (Shaker et al. 2023), section 3.2 and the official code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EfficientAdditiveAttention"]


class EfficientAdditiveAttention(nn.Module):
    """Attention with one global query and no values; cost is linear in the number of tokens.

    For the N = HW tokens x (N, C) of an image::

        Q   = rows of (x W_q + b_q) divided by their L2 norm       (N, C)
        K   = rows of (x W_k + b_k) divided by their L2 norm       (N, C)
        a   = Q w_g, divided by its L2 norm over the N tokens      (N, 1)
        g   = Σₙ aₙ Qₙ                                             (1, C)
        out = ((g ⊙ K) W_p + b_p + Q) W_f + b_f                    (N, C)

    The paper's factor 1/sqrt(C) in `a` is left out: the norm over the tokens cancels it exactly. That norm
    and W_f are in the official code, not in the paper's equations 4 to 6.

    Args:
        dim: channels C.

    Shape:
        `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.to_query = nn.Linear(dim, dim)
        self.to_key = nn.Linear(dim, dim)
        self.w_g = nn.Parameter(torch.randn(dim, 1))
        self.proj = nn.Linear(dim, dim)
        self.final = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        query = F.normalize(_pointwise(x, self.to_query), dim=1)  # (B, C, H, W)
        key = F.normalize(_pointwise(x, self.to_key), dim=1)
        scores = F.conv2d(query, self.w_g.T[..., None, None])  # (B, 1, H, W)
        scores = F.normalize(scores.flatten(1), dim=1).view_as(scores)
        context = (scores * query).sum(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        return _pointwise(_pointwise(context * key, self.proj) + query, self.final)


def _pointwise(x: Tensor, linear: nn.Linear) -> Tensor:
    """A linear layer on the channels of a map, as a 1×1 convolution: no transposes, which is faster."""
    return F.conv2d(x, linear.weight[..., None, None], linear.bias)
