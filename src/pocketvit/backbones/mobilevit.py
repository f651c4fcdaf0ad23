"""MobileViT: a light-weight, mobile-friendly vision transformer (Mehta & Rastegari, ICLR 2022).

Paper: https://arxiv.org/abs/2110.02178 (table 4). Parameter names are timm's. Official code: apple/ml-cvnets.

======  ==========================================  =======================================
stride  layers                                      channels, {transformer width}
======  ==========================================  =======================================
2       conv 3×3, inverted residual                 stem, widths[0]
4       3 inverted residuals                        widths[1]
8       inverted residual, MobileViT block, L = 2   widths[2] {dims[0]}
16      inverted residual, MobileViT block, L = 4   widths[3] {dims[1]}
32      inverted residual, MobileViT block, L = 3   widths[4] {dims[2]}
32      conv 1×1                                    features
======  ==========================================  =======================================
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketvit.backbones.base import Backbone, Level, make_classifier
from pocketvit.backbones.layers import ConvNorm
from pocketvit.backbones.options import DEFAULTS, BuildOptions, reductions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register
from pocketvit.mixers.patches import fold, unfold, whole_patches
from pocketvit.mixers.registry import MixerFactory
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = [
    "BYOBNET_BLOCKS",
    "InvertedResidual",
    "MobileViT",
    "MobileViTSpec",
    "PooledHead",
    "build",
    "init_byobnet",
]

PATCH = 2
BYOBNET_BLOCKS = ((r"^stages\.(\d+)\.(\d+)", None), (r"^final_conv", (99999,)))


@dataclass(frozen=True, kw_only=True)
class MobileViTSpec:
    """One column of the paper's table."""

    widths: tuple[int, int, int, int, int]
    dims: tuple[int, int, int]
    features: int
    expansion: int = 4
    stem: int = 16
    depths: tuple[int, int, int] = (2, 4, 3)


SPECS = {
    "mobilevit_xxs": MobileViTSpec(widths=(16, 24, 48, 64, 80), dims=(64, 80, 96), features=320, expansion=2),
    "mobilevit_xs": MobileViTSpec(widths=(32, 48, 64, 80, 96), dims=(96, 120, 144), features=384),
    "mobilevit_s": MobileViTSpec(widths=(32, 64, 96, 128, 160), dims=(144, 192, 240), features=640),
}


class MobileViT(Backbone):
    """MobileViT; see `Backbone` for the interface. The last level includes the final 1×1 convolution.

    With an output stride below 32 only the depthwise convolutions of inverted residuals are dilated, as in
    the official code; timm dilates the 3×3 convolution that opens a MobileViT block too, so it computes other
    features from the same weights.

    Args:
        mixer: what makes the token mixers; `None` is softmax attention. See `MobileViTMixerBlock` for where
            another stands.
    """

    classifiers = ("head.fc",)
    block_patterns = BYOBNET_BLOCKS

    def __init__(
        self,
        spec: MobileViTSpec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        mixer: MixerFactory | None = None,
    ) -> None:
        widths = (*spec.widths[1:4], spec.features)
        names = ("stages.1", "stages.2", "stages.3", "final_conv")
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            widths=widths,
            level_names=names,
            output_stride=output_stride,
        )
        residual = partial(InvertedResidual, expansion=spec.expansion)
        block = MobileViTBlock if mixer is None else partial(MobileViTMixerBlock, mixer=mixer)
        c1, c2, *_ = spec.widths
        self.stem = ConvNorm(in_chans, spec.stem, kernel=3, stride=2, act=nn.SiLU(inplace=True))
        self.stages = nn.Sequential(
            nn.Sequential(residual(spec.stem, c1)),
            nn.Sequential(residual(c1, c2, stride=2), residual(c2, c2), residual(c2, c2)),
        )
        c_in = c2
        rows = zip(spec.widths[2:], spec.dims, spec.depths, reductions(output_stride), strict=True)
        for c, dim, depth, step in rows:
            shrink = residual(c_in, c, stride=step.stride, dilation=step.first)
            self.stages.append(nn.Sequential(shrink, block(c, dim=dim, depth=depth)))
            c_in = c
        self.final_conv = ConvNorm(c_in, spec.features, act=nn.SiLU(inplace=True))
        self.head = PooledHead(spec.features, num_classes)
        # from the convolution that makes the transformer's width to what its first attention begins with
        first = "attn.[qkv]*" if mixer is None else "attn"
        self.bridge_blocks = tuple(
            (f"stages.{index}.1.conv_1x1", f"stages.{index}.1.transformer.0.{first}") for index in (2, 3, 4)
        )
        init_byobnet(self)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        first, second, third, fourth, fifth = self.stages
        return (self.stem, first, second), (third,), (fourth,), (fifth, self.final_conv)


class InvertedResidual(nn.Module):
    """MobileNetV2 block: widen 1×1, depthwise 3×3, narrow 1×1; a skip where shapes agree (Sandler 2018).

    Args:
        expansion: hidden width over `in_chans`.
        dilation: of the depthwise convolution.
    """

    def __init__(
        self, in_chans: int, out_chans: int, *, expansion: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        hidden = in_chans * expansion
        self.has_skip = stride == 1 and in_chans == out_chans
        self.conv1_1x1 = ConvNorm(in_chans, hidden, act=nn.SiLU(inplace=True))
        self.conv2_kxk = ConvNorm(
            hidden,
            hidden,
            kernel=3,
            stride=stride,
            dilation=dilation,
            groups=hidden,
            act=nn.SiLU(inplace=True),
        )
        self.conv3_1x1 = ConvNorm(hidden, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, in_chans, H, W)` to `(B, out_chans, ceil(H / stride), ceil(W / stride))`."""
        y = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + y if self.has_skip else y


class _Block(nn.Module, ABC):
    """What stands around the transformer: convolutions before it, fusion after it."""

    def __init__(self, chans: int, *, dim: int, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.conv_kxk = ConvNorm(chans, chans, kernel=3, act=nn.SiLU(inplace=True))
        self.conv_1x1 = nn.Conv2d(chans, dim, 1, bias=False)
        self.transformer = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(dim)
        self.conv_proj = ConvNorm(dim, chans, act=nn.SiLU(inplace=True))
        self.conv_fusion = ConvNorm(2 * chans, chans, kernel=3, act=nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        local = self.conv_1x1(self.conv_kxk(x))
        return self.conv_fusion(torch.cat((x, self.conv_proj(self._global(local))), dim=1))

    def _global(self, x: Tensor) -> Tensor:
        _, _, H, W = x.shape
        even = whole_patches(x, patch=PATCH)
        if even != (H, W):
            x = F.interpolate(x, size=even, mode="bilinear", align_corners=False)
        tokens = unfold(x, patch=PATCH).flatten(0, 1)  # (B·P, N, dim)
        height, width = even
        tokens = self.transform(tokens, (height // PATCH, width // PATCH))
        x = fold(self.norm(tokens).unflatten(0, (-1, PATCH**2)), patch=PATCH, size=even)
        return x if even == (H, W) else F.interpolate(x, size=(H, W), mode="bilinear", align_corners=False)

    @abstractmethod
    def transform(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        """Token sets `(sets, N, dim)` through the layers; the N tokens of a set are a map of `size`."""


class MobileViTBlock(_Block):
    """Convolutions, a transformer over the pixels at the same place of each 2×2 patch, fusion (section 3.1).

    Where H or W is odd the transformer sees the map resized up to even, and its output is resized back, as in
    the official code. The published weights were trained so (160 and 288 px are among their training sizes)
    and the block keeps its size, so there is no reason to differ.

    Shape:
        `(B, chans, H, W)` to `(B, chans, H, W)`.
    """

    def __init__(self, chans: int, *, dim: int, depth: int) -> None:
        attentions = (SoftmaxAttention(dim=dim, patch=PATCH) for _ in range(depth))
        super().__init__(chans, dim=dim, layers=(TransformerLayer(dim, attn=attn) for attn in attentions))

    def transform(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return self.transformer(tokens)


class MobileViTMixerBlock(_Block):
    """`MobileViTBlock` with another mixer in the place of softmax attention.

    In every layer the mixer reads what attention reads, after the layer's first norm, and sees the pixels
    that see each other there: those at the same place of each 2×2 patch. They are a map of half the height
    and width, so four such maps an image go through the mixer side by side.

    Args:
        mixer: what makes the mixer of each layer.

    Shape:
        `(B, chans, H, W)` to `(B, chans, H, W)`.
    """

    def __init__(self, chans: int, *, dim: int, depth: int, mixer: MixerFactory) -> None:
        mixers = (mixer(dim) for _ in range(depth))
        super().__init__(chans, dim=dim, layers=(MixerLayer(dim, attn=attn) for attn in mixers))

    def transform(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        return self.transformer(tokens.unflatten(1, size)).flatten(1, 2)


class _Layer(nn.Module, ABC):
    """Pre-norm transformer layer on channels last, hidden width twice `dim`."""

    def __init__(self, dim: int, *, attn: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _FeedForward(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    @abstractmethod
    def mix(self, x: Tensor) -> Tensor: ...


class TransformerLayer(_Layer):
    """Pre-norm transformer layer on token sets `(sets, N, dim)`."""

    def mix(self, x: Tensor) -> Tensor:
        return cast(SoftmaxAttention, self.attn).forward_tokens(x)


class MixerLayer(_Layer):
    """The same layer on maps with the channels last, `(sets, H, W, dim)`, around a mixer of maps."""

    def mix(self, x: Tensor) -> Tensor:
        return self.attn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.SiLU(inplace=True)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PooledHead(nn.Module):
    """The classifier under the name that timm gives it (`head.fc`)."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.fc = make_classifier(num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of pooled features."""
        return self.fc(x)


def init_byobnet(model: nn.Module) -> None:
    """Initial weights as timm has them: He-normal convolutions, small linears, residual branches at zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, InvertedResidual) and module.has_skip:
            nn.init.zeros_(module.conv3_1x1.bn.weight)


def build(spec: MobileViTSpec, options: BuildOptions = DEFAULTS) -> Callable[[int, int], MobileViT]:
    """What makes the network of a spec from (number of classes, input channels)."""

    def make(num_classes: int, in_chans: int) -> MobileViT:
        return MobileViT(
            spec,
            num_classes=num_classes,
            in_chans=in_chans,
            output_stride=options.output_stride,
            mixer=options.mixer_factory,
        )

    return make


register(
    *(
        ModelEntry(
            name=name,
            family="mobilevit",
            preprocessing=Preprocessing(
                size=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bicubic", crop=0.9
            ),
            code_licence="Apache-2.0",
            weights_licence="Apple sample-code licence (ml-cvnets; not open source)",
            source="arXiv 2110.02178, github.com/apple/ml-cvnets",
            hub=f"{name}.cvnets_in1k",
            build=build(spec),
            configure=partial(build, spec),
            mixer="softmax",
        )
        for name, spec in SPECS.items()
    )
)
