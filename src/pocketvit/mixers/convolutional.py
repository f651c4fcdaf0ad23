"""Convolutional additive token mixer (CATM): CAS-ViT (Zhang et al. 2024), section 3.2, official code."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvolutionalAdditiveMixer"]


class ConvolutionalAdditiveMixer(nn.Module):
    """Additive attention whose similarity is made of convolutional gates: no softmax, no token product.

    With depthwise 3×3 convolutions D, pointwise convolutions P (no bias) and ⊙ the element-wise product::

        Q, K, V = P_q x, P_k x, P_v x                                       (C, H, W) each
        S(t)    = t ⊙ sigmoid(P_{C→1} relu(BN(D t)))                        spatial gate, (1, H, W)
        Φ(t)    = S(t) ⊙ sigmoid(P_{C→C} mean_{H,W} S(t))                   channel gate, (C, 1, 1)
        out     = D_out( D_in(Φ_q(Q) + Φ_k(K)) ⊙ V )                        (C, H, W)

    Φ_q and Φ_k have weights of their own. Nothing normalises the product with V: activations grow with the
    third power of their scale, so half precision and quantization need care.

    Args:
        dim: channels C.

    Shape:
        `(B, C, H, W)` to `(B, C, H, W)`.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.oper_q = nn.Sequential(_SpatialGate(dim), _ChannelGate(dim))
        self.oper_k = nn.Sequential(_SpatialGate(dim), _ChannelGate(dim))
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of a feature map."""
        q, k, v = self.qkv(x).chunk(3, dim=1)
        return self.proj(self.dwc(self.oper_q(q) + self.oper_k(k)) * v)


class _SpatialGate(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, 1, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.block(x)


class _ChannelGate(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, dim, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.block(x)
