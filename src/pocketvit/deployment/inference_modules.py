"""The mixers as they run fastest once their weights are fixed; `rewrites` puts them in place of the trained.

Each computes exactly what the module it is made from computes. Reshapes and products replace what runtimes
execute as separate passes over memory: six-dimensional transposes, splits, expands.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.backbones.mobilevit import PATCH, MobileViTBlock
from pocketvit.backbones.mobilevitv2 import MobileViTV2Block
from pocketvit.deployment.folding import set_weights
from pocketvit.mixers.additive import EfficientAdditiveAttention
from pocketvit.mixers.convolutional import ConvolutionalAdditiveMixer
from pocketvit.mixers.patches import fold, unfold, whole_patches
from pocketvit.mixers.separable import SeparableSelfAttention
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = [
    "MapNorm",
    "MapSeparableAttention",
    "MergedAdditiveAttention",
    "SplitConvolutionalMixer",
    "SplitSoftmaxAttention",
    "TokenMobileViTBlock",
    "UnfoldFreeBlock",
]

_EPS = 1e-12  # of F.normalize


class MergedAdditiveAttention(nn.Module):
    """Efficient additive attention with two convolutions instead of five.

    Query and key come from one convolution. The two linear maps after the attention are one of [g ⊙ K; Q]::

        ((g ⊙ K) W_p + b_p + Q) W_f + b_f = [g ⊙ K; Q] [W_p W_f; W_f] + (b_p W_f + b_f)
    """

    def __init__(self, mixer: EfficientAdditiveAttention) -> None:
        super().__init__()
        final, proj = mixer.final, mixer.proj
        self.to_key_query = _conv(
            torch.cat((mixer.to_key.weight, mixer.to_query.weight)),
            torch.cat((mixer.to_key.bias, mixer.to_query.bias)),
        )
        score = torch.cat((torch.zeros_like(mixer.w_g), mixer.w_g)).T.contiguous()
        self.score = nn.Parameter(score, requires_grad=False)  # (1, 2C): reads the query half only
        self.out = _conv(
            torch.cat((final.weight @ proj.weight, final.weight), dim=1),
            final.weight @ proj.bias + final.bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        _, C, H, W = x.shape
        pair = self.to_key_query(x).flatten(2).unflatten(1, (2, C))  # (B, 2, C, N)
        pair = pair * (pair * pair).sum(dim=2, keepdim=True).clamp(min=_EPS**2).rsqrt()
        pair = pair.flatten(1, 2)
        scores = self.score @ pair  # (B, 1, N)
        scores = scores * (scores * scores).sum(dim=2, keepdim=True).clamp(min=_EPS**2).rsqrt()
        # row times transposed matrix: runtimes take three times as long for matrix times column
        context = (scores @ pair.transpose(1, 2))[..., C:].transpose(1, 2)  # (B, C, 1)
        pair = pair * F.pad(context, (0, 0, 0, C), value=1.0)  # [g ⊙ K; Q]
        return self.out(pair.unflatten(2, (H, W)))


class MapSeparableAttention(nn.Module):
    """Separable self-attention on the feature map itself: no unfolding, the key once a set.

    The pixels of the p² sets stay where they are; a mask M (p², N), 0 inside a set and hugely negative
    outside, keeps the sets apart, of equal size or not: the weights outside are exactly 0. The query's bias
    moves all scores alike and is gone::

        S   = softmax over pixels of (w_q x + M)                    (p², N)
        c   = W_k (x Sᵀ) + b_k                                      (C, p²)
        out = W_o (relu(W_v x + b_v) ⊙ c[:, set of the pixel]) + b_o
    """

    def __init__(self, mixer: SeparableSelfAttention) -> None:
        super().__init__()
        dim, weight, bias = mixer.dim, mixer.qkv_proj.weight.flatten(1), cast(Tensor, mixer.qkv_proj.bias)
        self.patch = mixer.patch
        self.query = nn.Parameter(weight[:1].clone(), requires_grad=False)
        self.key = nn.Parameter(weight[1 : 1 + dim].clone(), requires_grad=False)
        self.key_bias = nn.Parameter(bias[1 : 1 + dim, None].clone(), requires_grad=False)
        self.value = _conv(weight[1 + dim :], bias[1 + dim :])
        self.out_proj = mixer.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = x.flatten(2)  # (B, C, N)
        member = self._membership(x)  # (p², N)
        # not -∞: where H or W is below p a set is empty, and would have no number as its weights
        outside = (1 - member) * (torch.finfo(x.dtype).min / 2)
        scores = F.softmax(self.query @ tokens + outside, dim=-1)
        means = scores @ tokens.transpose(1, 2)  # (B, p², C)
        context = self.key @ means.transpose(1, 2) + self.key_bias  # (B, C, p²)
        return self.out_proj(F.relu(self.value(x)) * self._spread(context, (x.shape[2], x.shape[3])))

    def _spread(self, context: Tensor, size: tuple[int, int]) -> Tensor:
        """The numbers of each set `(B, C, p²)` at all pixels of the set, `(B, C, H, W)`: tiles of p × p."""
        p, (H, W) = self.patch, size
        tiles = context.unflatten(2, (p, p)).repeat(1, 1, -(-H // p), -(-W // p))
        return tiles if H % p == W % p == 0 else tiles[..., :H, :W]

    def _membership(self, x: Tensor) -> Tensor:
        """1 where pixel n belongs to set p, else 0; a constant of the exported graph."""
        _, _, H, W = x.shape
        rows = torch.arange(H, device=x.device) % self.patch
        columns = torch.arange(W, device=x.device) % self.patch
        sets = (rows[:, None] * self.patch + columns).flatten()
        return (sets == torch.arange(self.patch**2, device=x.device)[:, None]).to(x.dtype)


class UnfoldFreeBlock(nn.Module):
    """A MobileViTv2 block that never leaves the feature map."""

    def __init__(self, block: MobileViTV2Block) -> None:
        super().__init__()
        self.resize, self.conv_kxk, self.conv_1x1 = block.resize, block.conv_kxk, block.conv_1x1
        self.transformer = nn.Sequential(*(_MapLayer(layer) for layer in block.transformer))
        self.norm, self.conv_proj = block.norm, block.conv_proj

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` as the block it is made from does."""
        x = self.conv_1x1(self.conv_kxk(self.resize(x)))
        return self.conv_proj(self.norm(self.transformer(x)))


class _MapLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = (layer.get_submodule(name) for name in ("norm1", "norm2", "mlp"))
        self.attn = MapSeparableAttention(cast(SeparableSelfAttention, layer.get_submodule("attn")))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SplitConvolutionalMixer(nn.Module):
    """The convolutional additive mixer with a convolution each for query, key and value: no parts to copy."""

    def __init__(self, mixer: ConvolutionalAdditiveMixer) -> None:
        super().__init__()
        weights = mixer.qkv.weight.flatten(1).chunk(3)
        biases = (None,) * 3 if mixer.qkv.bias is None else mixer.qkv.bias.chunk(3)
        self.query, self.key, self.value = (_conv(*parts) for parts in zip(weights, biases, strict=True))
        self.oper_q, self.oper_k, self.dwc, self.proj = mixer.oper_q, mixer.oper_k, mixer.dwc, mixer.proj

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        context = self.oper_q(self.query(x)) + self.oper_k(self.key(x))
        return self.proj(self.dwc(context) * self.value(x))


class MapNorm(nn.Module):
    """Group normalisation of one group without scale and shift, as one operator."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, ...)` to the same shape."""
        flat = x.reshape(-1, 1, x[0].numel())
        return F.instance_norm(flat, eps=self.eps).reshape(-1, *x.shape[1:])


class SplitSoftmaxAttention(nn.Module):
    """Softmax attention with a linear layer each for query, key and value, over one matrix of all tokens.

    The scale is in W_q. The key's bias adds the same to all scores of a query and is gone; the value's passes
    through weights that sum to 1, into the output's bias. OpenVINO runs everything between the four linear
    layers as one operator, the transposes of heads included, as long as it finds tokens before channels.
    """

    def __init__(self, mixer: SoftmaxAttention) -> None:
        super().__init__()
        self.heads, self.patch = mixer.heads, mixer.patch
        q, k, v = mixer.qkv.weight.chunk(3)
        q_bias, _, v_bias = mixer.qkv.bias.chunk(3)
        scale = (q.shape[0] // self.heads) ** -0.5
        self.query, self.key, self.value = _linear(scale * q, scale * q_bias), _linear(k), _linear(v)
        self.proj = _linear(mixer.proj.weight, mixer.proj.bias + mixer.proj.weight @ v_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = self.forward_tokens(unfold(x, patch=self.patch).flatten(0, 1))
        return fold(tokens.unflatten(0, (-1, self.patch**2)), patch=self.patch, size=(x.shape[2], x.shape[3]))

    def forward_tokens(self, x: Tensor) -> Tensor:
        """Map sets of tokens `(sets, N, C)` to the same shape."""
        _, N, C = x.shape
        rows = x.reshape(-1, C)  # of a matrix: runtimes add the bias within the product
        q, k, v = (
            layer(rows).reshape(-1, N, self.heads, C // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # (sets, heads, N, d)
        x = F.softmax(q @ k.transpose(2, 3), dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(-1, C)).reshape(-1, N, C)


class TokenMobileViTBlock(nn.Module):
    """A MobileViT block whose tokens are the rows of one matrix, except where attention mixes them.

    The channels are brought last before pixels unfold into tokens, so that these move as whole rows.
    """

    def __init__(self, block: MobileViTBlock) -> None:
        super().__init__()
        self.conv_kxk, self.conv_1x1 = block.conv_kxk, block.conv_1x1
        self.transformer = nn.ModuleList(_TokenLayer(layer) for layer in block.transformer)
        self.norm, self.conv_proj, self.conv_fusion = block.norm, block.conv_proj, block.conv_fusion

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        local = self.conv_1x1(self.conv_kxk(x))
        return self.conv_fusion(torch.cat((x, self.conv_proj(self._global(local))), dim=1))

    def _global(self, x: Tensor) -> Tensor:
        _, C, H, W = x.shape
        even = height, width = whole_patches(x, patch=PATCH)
        if even != (H, W):
            x = F.interpolate(x, size=even, mode="bilinear", align_corners=False)
        rows, columns = height // PATCH, width // PATCH
        x = x.flatten(2).transpose(1, 2).reshape(-1, rows, PATCH, columns, PATCH, C).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(-1, C)  # (B·P·N, C)
        for layer in self.transformer:
            x = layer(x, rows * columns)
        x = x.reshape(-1, PATCH, PATCH, rows, columns, C).permute(0, 3, 1, 4, 2, 5)
        # The norm after folding, not before: ONNX Runtime would merge it with the last layer's sum into an
        # operator that takes ten times as long.
        x = self.norm(x.reshape(-1, height * width, C)).transpose(1, 2).reshape(-1, C, height, width)
        return x if even == (H, W) else F.interpolate(x, size=(H, W), mode="bilinear", align_corners=False)


class _TokenLayer(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = (layer.get_submodule(name) for name in ("norm1", "norm2", "mlp"))
        self.attn = cast(SoftmaxAttention, layer.get_submodule("attn"))  # or what replaces it

    def forward(self, x: Tensor, tokens: int) -> Tensor:
        """Map `(sets · tokens, C)` to the same shape."""
        C = x.shape[1]
        x = x + self.attn.forward_tokens(self.norm1(x).reshape(-1, tokens, C)).reshape(-1, C)
        return x + self.mlp(self.norm2(x))


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer of a matrix `(out, in)`."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    set_weights(linear, weight.clone(), None if bias is None else bias.clone())
    return linear


def _conv(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A 1×1 convolution of a matrix `(out, in)`."""
    out_chans, in_chans = weight.shape
    conv = nn.Conv2d(in_chans, out_chans, 1, bias=False)
    set_weights(conv, weight[..., None, None].clone(), None if bias is None else bias.clone())
    return conv
