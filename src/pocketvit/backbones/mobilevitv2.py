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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.backbones.base import Backbone, Level
from pocketvit.backbones.layers import ConvNorm, dilate
from pocketvit.backbones.mobilevit import BYOBNET_BLOCKS, InvertedResidual, PooledHead, init_byobnet
from pocketvit.backbones.options import DEFAULTS, BuildOptions, reductions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register, register_pattern
from pocketvit.mixers.patches import fold_channels, unfold_channels, whole_patches
from pocketvit.mixers.patchwise import PatchwiseMixer
from pocketvit.mixers.registry import MixerFactory
from pocketvit.mixers.separable import SeparableSelfAttention

__all__ = ["MobileViTV2", "MobileViTV2Spec", "ResizeToPatches", "build"]

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
    """MobileViTv2; see `Backbone` for the interface.

    With an output stride below 32 the depthwise convolutions of inverted residuals and of MobileViTv2 blocks
    are dilated, as in the official code and in timm.

    Args:
        resize: what stands before each MobileViTv2 block: nothing, or `ResizeToPatches` for official results
            on odd maps (see `MobileViTV2Block`). It has no weights.
        mixer: what makes the token mixers; `None` is separable attention. See `MobileViTV2MixerBlock` for
            where another stands.
    """

    classifiers = ("head.fc",)
    block_patterns = BYOBNET_BLOCKS

    def __init__(
        self,
        spec: MobileViTV2Spec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        resize: Callable[[], nn.Module] = nn.Identity,
        mixer: MixerFactory | None = None,
    ) -> None:
        c1, c2, *deep = spec.widths
        names = ("stages.1", "stages.2", "stages.3", "stages.4")
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            widths=(c2, *deep),
            level_names=names,
            output_stride=output_stride,
        )
        residual = partial(InvertedResidual, expansion=2)
        block = MobileViTV2Block if mixer is None else partial(MobileViTV2MixerBlock, mixer=mixer)
        self.stem = ConvNorm(in_chans, spec.stem, kernel=3, stride=2, act=nn.SiLU(inplace=True))
        self.stages = nn.Sequential(
            nn.Sequential(residual(spec.stem, c1)),
            nn.Sequential(residual(c1, c2, stride=2), residual(c2, c2)),
        )
        c_in = c2
        for c, dim, depth, step in zip(deep, spec.dims, spec.depths, reductions(output_stride), strict=True):
            shrink = residual(c_in, c, stride=step.stride, dilation=step.first)
            mix = block(c, dim=dim, depth=depth, dilation=step.dilation, resize=resize())
            self.stages.append(nn.Sequential(shrink, mix))
            c_in = c
        self.head = PooledHead(c_in, num_classes)
        # from the convolution that makes the transformer's width to the end of its first attention
        self.bridge_blocks = tuple(
            (f"stages.{index}.1.conv_1x1", f"stages.{index}.1.transformer.0.attn") for index in (2, 3, 4)
        )
        init_byobnet(self)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        first, second, third, fourth, fifth = self.stages
        return (self.stem, first, second), (third,), (fourth,), (fifth,)


class _Block(nn.Module):
    """Depthwise convolution, layers on the feature map, projection.

    Args:
        layers: map `(B, dim, H, W)` to the same shape.
        dilation: of the depthwise convolution.
        resize: module that the input passes first.
    """

    def __init__(
        self, chans: int, *, dim: int, layers: Iterable[nn.Module], dilation: int, resize: nn.Module | None
    ) -> None:
        super().__init__()
        self.resize = resize or nn.Identity()
        self.conv_kxk = ConvNorm(
            chans, chans, kernel=3, dilation=dilation, groups=chans, act=nn.SiLU(inplace=True)
        )
        self.conv_1x1 = nn.Conv2d(chans, dim, 1, bias=False)
        self.transformer = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(1, dim)
        self.conv_proj = ConvNorm(dim, chans)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_1x1(self.conv_kxk(self.resize(x)))
        return self.conv_proj(self.transform(x))

    def transform(self, x: Tensor) -> Tensor:
        """Map `(B, dim, H, W)` through the layers and the norm."""
        return self.norm(self.transformer(x))


class MobileViTV2Block(_Block):
    """Depthwise convolution, then separable attention over the pixels at the same place of each 2×2 patch.

    Where H or W is odd, the patches at the border hold fewer pixels, so the four token sets differ in size;
    every pixel is a token once, none is invented, and the map keeps its size. The official code instead
    resizes the block's input up to even and leaves it so: 224 px ends in 8×8 where stride 32 means 7×7. Both
    agree where H and W are even, which they are at every size the published weights were trained and measured
    at (256 and 384 px), so the exact size is the default and `resize=ResizeToPatches()` gives the official
    results elsewhere.

    Args:
        dilation: of the depthwise convolution.
        resize: module that the input passes first.

    Shape:
        `(B, chans, H, W)` to `(B, chans, H, W)`; with `ResizeToPatches`, H and W rounded up to even.
    """

    def __init__(
        self, chans: int, *, dim: int, depth: int, dilation: int = 1, resize: nn.Module | None = None
    ) -> None:
        layers = (SeparableLayer(dim) for _ in range(depth))
        super().__init__(chans, dim=dim, layers=layers, dilation=dilation, resize=resize)

    def transform(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        if whole_patches(x, patch=PATCH) == (H, W):  # faster: unfold once instead of in every layer
            tokens = self.norm(self.transformer(unfold_channels(x, patch=PATCH)))
            return fold_channels(tokens, patch=PATCH, size=(H, W))
        for layer in self.transformer:
            x = cast(SeparableLayer, layer).forward_map(x)
        return self.norm(x)


class MobileViTV2MixerBlock(_Block):
    """`MobileViTV2Block` with another mixer in the place of separable attention.

    In every layer the mixer reads what attention reads, after the layer's first norm, and sees the pixels
    that see each other there: those at the same place of each 2×2 patch (see `PatchwiseMixer`), at any H and
    W.

    Args:
        mixer: what makes the mixer of each layer; its k×k convolutions are dilated too.
        dilation: of the depthwise convolution.
        resize: module that the input passes first.

    Shape:
        `(B, chans, H, W)` to `(B, chans, H, W)`; with `ResizeToPatches`, H and W rounded up to even.
    """

    def __init__(
        self,
        chans: int,
        *,
        dim: int,
        depth: int,
        mixer: MixerFactory,
        dilation: int = 1,
        resize: nn.Module | None = None,
    ) -> None:
        mixers = (PatchwiseMixer(dilate(mixer(dim), dilation), patch=PATCH) for _ in range(depth))
        layers = (MixerLayer(dim, attn=attn) for attn in mixers)
        super().__init__(chans, dim=dim, layers=layers, dilation=dilation, resize=resize)


class ResizeToPatches(nn.Module):
    """Resize a map whose height or width is odd up to even, bilinearly, as the official code does."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2 ceil(H / 2), 2 ceil(W / 2))`."""
        even = whole_patches(x, patch=PATCH)
        if even == x.shape[-2:]:
            return x
        return F.interpolate(x, size=even, mode="bilinear", align_corners=True)


class MixerLayer(nn.Module):
    """Pre-norm transformer layer around a mixer of maps, hidden width twice `dim`."""

    def __init__(self, dim: int, *, attn: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.attn = attn
        self.norm2 = nn.GroupNorm(1, dim)
        self.mlp = _FeedForward(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, dim, H, W)` to the same shape."""
        return self.with_skips(x, self.attn)

    def with_skips(self, x: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer with `mix` for its mixer."""
        x = x + mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class SeparableLayer(MixerLayer):
    """The same layer with separable attention, which also takes tokens already unfolded."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, attn=SeparableSelfAttention(dim=dim, patch=PATCH))

    def forward(self, x: Tensor) -> Tensor:
        """Map token sets `(B, dim, P, N)` to the same shape."""
        return self.with_skips(x, cast(SeparableSelfAttention, self.attn).forward_tokens)

    def forward_map(self, x: Tensor) -> Tensor:
        """The same for feature maps `(B, dim, H, W)` of any size."""
        return self.with_skips(x, self.attn)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def build(spec: MobileViTV2Spec, options: BuildOptions = DEFAULTS) -> Callable[[int, int], MobileViTV2]:
    """What makes the network of a spec from (number of classes, input channels)."""

    def make(num_classes: int, in_chans: int) -> MobileViTV2:
        return MobileViTV2(
            spec,
            num_classes=num_classes,
            in_chans=in_chans,
            output_stride=options.output_stride,
            resize=ResizeToPatches if options.official_resize else nn.Identity,
            mixer=options.mixer_factory,
        )

    return make


def _entry(
    width: float, *, tag: str = "", size: int = 256, crop: float = 0.888, hub_tag: str = ""
) -> ModelEntry:
    name = f"mobilevitv2_{round(100 * width):03d}"
    spec = MobileViTV2Spec(width=width)
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
        build=build(spec),
        configure=partial(build, spec),
        mixer="separable",
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
