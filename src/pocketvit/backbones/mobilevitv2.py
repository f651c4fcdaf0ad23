"""MobileViTv2: separable self-attention for mobile vision transformers (Mehta & Rastegari, TMLR 2023).

Paper: https://arxiv.org/abs/2206.02680 (table 6). Parameter names are timm's. Official code: apple/ml-cvnets.
Every layer is `width` times as wide as in the table; the paper trains seven widths, any other builds too.

======  ============================================  ========================
stride  layers                                        channels × width
======  ============================================  ========================
2       conv 3×3, inverted residual                   32, 64
4       2 inverted residuals                          128
8       inverted residual, MobileViTv2 block, B = 2   256 (attention 128)
16      inverted residual, MobileViTv2 block, B = 4   384 (attention 192)
32      inverted residual, MobileViTv2 block, B = 3   512 (attention 256)
======  ============================================  ========================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.backbones.base import Backbone, Level
from pocketvit.backbones.layers import ConvNorm
from pocketvit.backbones.mobilevit import InvertedResidual, PooledHead, init_byobnet
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register, register_pattern
from pocketvit.mixers.patches import fold_channels, unfold_channels, whole_patches
from pocketvit.mixers.separable import SeparableSelfAttention

__all__ = ["MobileViTV2", "MobileViTV2Spec", "build"]

PATCH = 2
WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
WIDTHS_FROM_IN22K = (1.5, 1.75, 2.0)


@dataclass(frozen=True, kw_only=True)
class MobileViTV2Spec:
    """The paper's table times `width`, rounded as the official code rounds."""

    width: float = 1.0
    depths: tuple[int, int, int] = (2, 4, 3)

    @property
    def stem(self) -> int:
        """Channels of the first convolution."""
        return make_divisible(min(max(32 * self.width, 16), 64), 8, min_value=16)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the five stages."""
        return make_divisible(64 * self.width, 16), *(
            make_divisible(base * self.width, 8) for base in (128, 256, 384, 512)
        )

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the attention in the last three stages."""
        return tuple(make_divisible(base * self.width, 8) for base in (128, 192, 256))


class MobileViTV2(Backbone):
    """MobileViTv2; see `Backbone` for the interface."""

    classifiers = ("head.fc",)

    def __init__(self, spec: MobileViTV2Spec, *, num_classes: int = 1000, in_chans: int = 3) -> None:
        c1, c2, *deep = spec.widths
        names = ("stages.1", "stages.2", "stages.3", "stages.4")
        super().__init__(num_classes=num_classes, in_chans=in_chans, widths=(c2, *deep), level_names=names)
        residual = partial(InvertedResidual, expansion=2)
        self.stem = ConvNorm(in_chans, spec.stem, kernel=3, stride=2, act=nn.SiLU(inplace=True))
        self.stages = nn.Sequential(
            nn.Sequential(residual(spec.stem, c1)),
            nn.Sequential(residual(c1, c2, stride=2), residual(c2, c2)),
        )
        c_in = c2
        for c, dim, depth in zip(deep, spec.dims, spec.depths, strict=True):
            block = MobileViTV2Block(c, dim=dim, depth=depth)
            self.stages.append(nn.Sequential(residual(c_in, c, stride=2), block))
            c_in = c
        self.head = PooledHead(c_in, num_classes)
        init_byobnet(self)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        first, second, third, fourth, fifth = self.stages
        return (self.stem, first, second), (third,), (fourth,), (fifth,)


class MobileViTV2Block(nn.Module):
    """Depthwise convolution, then separable attention over the pixels at the same place of each 2×2 patch.

    Where H or W is odd the input is resized up to even and stays so, as in the official code.

    Shape:
        `(B, chans, H, W)` to `(B, chans, H, W)`, H and W rounded up to even.
    """

    def __init__(self, chans: int, *, dim: int, depth: int) -> None:
        super().__init__()
        self.conv_kxk = ConvNorm(chans, chans, kernel=3, groups=chans, act=nn.SiLU(inplace=True))
        self.conv_1x1 = nn.Conv2d(chans, dim, 1, bias=False)
        self.transformer = nn.Sequential(*(SeparableLayer(dim) for _ in range(depth)))
        self.norm = nn.GroupNorm(1, dim)
        self.conv_proj = ConvNorm(dim, chans)

    def forward(self, x: Tensor) -> Tensor:
        even = whole_patches(x, patch=PATCH)
        if even != x.shape[-2:]:
            x = F.interpolate(x, size=even, mode="bilinear", align_corners=True)
        tokens = unfold_channels(self.conv_1x1(self.conv_kxk(x)), patch=PATCH)
        tokens = self.norm(self.transformer(tokens))
        return self.conv_proj(fold_channels(tokens, patch=PATCH, size=even))


class SeparableLayer(nn.Module):
    """Pre-norm transformer layer with separable attention, hidden width twice `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.attn = SeparableSelfAttention(dim=dim, patch=PATCH)
        self.norm2 = nn.GroupNorm(1, dim)
        self.mlp = _FeedForward(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn.forward_tokens(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def build(spec: MobileViTV2Spec) -> Callable[[int, int], MobileViTV2]:
    """What makes the network of a spec from (number of classes, input channels)."""
    return lambda num_classes, in_chans: MobileViTV2(spec, num_classes=num_classes, in_chans=in_chans)


def _entry(
    width: float, *, tag: str = "", size: int = 256, crop: float = 0.888, hub_tag: str = ""
) -> ModelEntry:
    name = f"mobilevitv2_{round(100 * width):03d}"
    return ModelEntry(
        name=name + tag,
        family="mobilevitv2",
        preprocessing=Preprocessing(
            size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop=crop
        ),
        code_licence="Apache-2.0",
        weights_licence="Apple sample-code licence (ml-cvnets; not open source)",
        source="arXiv 2206.02680, github.com/apple/ml-cvnets",
        hub=f"{name}.{hub_tag}" if hub_tag else None,
        build=build(MobileViTV2Spec(width=width)),
    )


def _entry_of_name(match: re.Match[str]) -> ModelEntry:
    return _entry(int(match[1]) / 100)


register(*(_entry(width, hub_tag="cvnets_in1k") for width in WIDTHS))
register(*(_entry(width, tag="_384", size=384, crop=1.0) for width in WIDTHS))
register(
    *(_entry(width, tag="_in22k_ft_in1k", hub_tag="cvnets_in22k_ft_in1k") for width in WIDTHS_FROM_IN22K)
)
register(
    *(
        _entry(width, tag="_in22k_ft_in1k_384", size=384, crop=1.0, hub_tag="cvnets_in22k_ft_in1k_384")
        for width in WIDTHS_FROM_IN22K
    )
)
register_pattern(r"mobilevitv2_(?!000)(\d{3})", _entry_of_name)
