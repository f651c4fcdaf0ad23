"""What is particular to Mobile-Former: the bridges between its two streams, and what its tokens do.

Throughout, X `(B, C, H, W)` is the feature map of the convolutions and Z `(B, M, d)` the tokens.
"""

from __future__ import annotations

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ChannelShuffle", "DynamicReLU", "Former", "FormerToMobile", "MobileToFormer"]

BRIDGE_HEADS = 2
FORMER_HEADS = 4


class MobileToFormer(nn.Module):
    """The tokens read the feature map, which is its own key and value (section 3.2 of the paper).

    With X as N = HW positions of C channels, two heads and d_h = C / 2, for each head::

        Q    = Z W_q + b_q                                   (M, d_h)
        A    = softmax_over_positions(Q Xᵀ / sqrt(d_h)) X    (M, d_h)
        gate = 2 hardsigmoid(Z W_g + b_g)                    (M, C)
        out  = LayerNorm(Z + (gate · concat(A)) W_o + b_o)   (M, d)

    Args:
        chans: channels C of the map.
        dim: width d of a token.
    """

    def __init__(self, chans: int, dim: int) -> None:
        super().__init__()
        self.scale = (chans // BRIDGE_HEADS) ** -0.5
        self.alpha = nn.Sequential(nn.Linear(dim, chans), nn.Hardsigmoid())
        self.q = nn.Linear(dim, chans)
        self.proj = nn.Linear(chans, dim)
        self.drop_path = DropPath()
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """New tokens `(B, M, d)` from a map `(B, C, H, W)` and tokens `(B, M, d)`."""
        positions = _heads_of_map(x)
        weights = (self.scale * _heads_of_tokens(self.q(z), BRIDGE_HEADS) @ positions).softmax(dim=-1)
        read = _join_heads(weights @ positions.transpose(-2, -1))
        # OpenVINO 2026.4, told the number of images, writes this product over its first factor. In the first
        # block the gate is a constant, which would be another one for the next image.
        return self.layer_norm(z + self.drop_path(self.proj(read * (2 * self.alpha(z)))))


class Former(nn.Module):
    """A transformer layer on the tokens, which are their own keys and values; norms after the skips.

    With four heads and d_h = d / 4, for each head::

        Q = Z W_q + b_q                                        (M, d_h)
        A = softmax(Q Zᵀ / sqrt(d_h)) Z                        (M, d_h)
        Z = LayerNorm(Z + concat(A) W_o + b_o)                 (M, d)
        Z = LayerNorm(Z + GELU(Z W_1 + b_1) W_2 + b_2)         (M, d), hidden width 2 d
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.channel_mlp = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.ffn_norm = nn.LayerNorm(dim)
        self.drop_path = DropPath()

    def forward(self, z: Tensor) -> Tensor:
        """Tokens `(B, M, d)` to tokens."""
        tokens = _heads_of_tokens(z, FORMER_HEADS)
        read = F.scaled_dot_product_attention(_heads_of_tokens(self.q(z), FORMER_HEADS), tokens, tokens)
        z = self.layer_norm(z + self.drop_path(self.channel_mlp(_join_heads(read))))
        return self.ffn_norm(z + self.drop_path(self.ffn(z)))


class FormerToMobile(nn.Module):
    """The feature map reads the tokens; it is its own query (section 3.2 of the paper).

    With X as N = HW positions of C channels, two heads and d_h = C / 2, for each head::

        K, V = Z W_k + b_k, Z W_v + b_v                    (M, d_h)
        A    = softmax_over_tokens(X Kᵀ / sqrt(d_h)) V     (N, d_h)
        out  = X + concat(A)                               (N, C)

    Computed transposed, so that the map keeps its memory layout.

    Args:
        chans: channels C of the map.
        dim: width d of a token.
    """

    def __init__(self, chans: int, dim: int) -> None:
        super().__init__()
        self.scale = (chans // BRIDGE_HEADS) ** -0.5
        self.k = nn.Linear(dim, chans)
        self.proj = nn.Linear(dim, chans)
        self.drop_path = DropPath()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """A new map `(B, C, H, W)` from a map and tokens `(B, M, d)`."""
        keys = self.scale * _heads_of_tokens(self.k(z), BRIDGE_HEADS)
        values = _heads_of_tokens(self.proj(z), BRIDGE_HEADS)
        weights = (keys @ _heads_of_map(x)).softmax(dim=-2)
        return x + self.drop_path((values.transpose(-2, -1) @ weights).reshape(x.shape))


class DynamicReLU(nn.Module):
    """ReLU whose two slopes per channel depend on a token (Chen et al., ECCV 2020).

    With z of width d::

        h1, h2 = hardsigmoid(W_2 ReLU(W_1 z + b_1) + b_2)       (C,) each
        y      = max(2 h1 x, (2 h2 - 1) x)

    At h1 = h2 = 1/2 it is ReLU.

    Args:
        chans: channels C.
        dim: width d of the token; the hidden width is d / 4.
    """

    def __init__(self, chans: int, dim: int) -> None:
        super().__init__()
        self.hyper = nn.Sequential(
            nn.Linear(dim, dim // 4), nn.ReLU(), nn.Linear(dim // 4, 2 * chans), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        """Activate a map `(B, C, H, W)`, given a token `(B, d)`."""
        first, second = (2 * self.hyper(token))[..., None, None].chunk(2, dim=1)
        return torch.maximum(first * x, (second - 1) * x)


class ChannelShuffle(nn.Module):
    """Channels as a table of `groups` rows, read column by column (ShuffleNet, Zhang et al. 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of `(B, C, H, W)`."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


def _heads_of_map(x: Tensor) -> Tensor:
    """`(B, C, H, W)` to `(B, 2, C / 2, HW)`."""
    return x.flatten(2).unflatten(1, (BRIDGE_HEADS, -1))


def _heads_of_tokens(z: Tensor, heads: int) -> Tensor:
    """`(B, M, heads d_h)` to `(B, heads, M, d_h)`."""
    return z.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join_heads(z: Tensor) -> Tensor:
    """`(B, heads, M, d_h)` to `(B, M, heads d_h)`."""
    return z.transpose(1, 2).flatten(2)
