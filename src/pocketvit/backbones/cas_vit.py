"""CAS-ViT: convolutional additive self-attention vision transformers (Zhang et al. 2024).

Paper: https://arxiv.org/abs/2408.03703 (table 1). Parameter names are those of the official code,
Tianfang-Zhang/CAS-ViT.

======  ===========================================  =========
stride  layers                                       channels
======  ===========================================  =========
4       2 conv 3×3 of stride 2, depths[0] blocks     widths[0]
8       conv 3×3 of stride 2,   depths[1] blocks     widths[1]
16      conv 3×3 of stride 2,   depths[2] blocks     widths[2]
32      conv 3×3 of stride 2,   depths[3] blocks     widths[3]
======  ===========================================  =========
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.drop import DropPath
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone, Level, make_classifier
from pocketvit.backbones.layers import Downsample, dilate, patch_stem
from pocketvit.backbones.options import DEFAULTS, BuildOptions, reductions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register
from pocketvit.mixers.registry import MixerFactory, get_mixer

__all__ = ["SPECS", "CASViT", "CASViTSpec", "build"]

MIXER = "convolutional"
EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class CASViTSpec:
    """Channels and blocks of the four stages."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SPECS = {
    "cas_vit_xs": CASViTSpec(widths=(48, 56, 112, 220), depths=(2, 2, 4, 2)),
    "cas_vit_s": CASViTSpec(widths=(48, 64, 128, 256), depths=(3, 3, 6, 3)),
    "cas_vit_m": CASViTSpec(widths=(64, 96, 192, 384), depths=(3, 3, 6, 3)),
    "cas_vit_t": CASViTSpec(widths=(96, 128, 256, 512), depths=(3, 3, 6, 3)),
}


class CASViT(Backbone):
    """CAS-ViT; see `Backbone` for the interface. One classifier, as the published training has.

    With an output stride below 32 the last downsamplings become dilated convolutions of stride 1 and the
    depthwise convolutions of their stages are dilated (see `reductions`); neither paper nor official code has
    a rule of its own for this.

    Another mixer stands where the convolutional additive one does, in every block after its first norm, and
    sees all pixels. Its k×k convolutions are dilated as those of its stage.

    Args:
        mixer: what makes the token mixers; `None` is the convolutional additive mixer.
    """

    block_patterns = (
        (r"^network\.(\d+)\.(\d+)", None),
        (r"^network\.(\d+)\.(?:proj|norm)", None),
        (r"^norm", (99999,)),
    )

    def __init__(
        self,
        spec: CASViTSpec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        mixer: MixerFactory | None = None,
    ) -> None:
        names = tuple(f"network.{index}" for index in (0, 2, 4, 6))
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            widths=spec.widths,
            level_names=names,
            output_stride=output_stride,
        )
        self.patch_embed = patch_stem(in_chans, spec.widths[0])
        c, *deep = spec.widths
        stage = partial(_stage, mixer=mixer or get_mixer(MIXER))
        self.network = nn.Sequential(stage(c, depth=spec.depths[0]))
        for chans, depth, step in zip(deep, spec.depths[1:], reductions(output_stride), strict=True):
            self.network.append(Downsample(c, chans, stride=step.stride, dilation=step.first))
            self.network.append(stage(chans, depth=depth, dilation=step.dilation))
            c = chans
        # every block has both; a stage first turns from convolutions to attention in its first
        first = "attn.[qkv]*" if mixer is None else "attn"
        self.bridge_blocks = tuple(
            (f"network.{stage}.0.local_perception", f"network.{stage}.0.{first}") for stage in (0, 2, 4, 6)
        )
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.head = make_classifier(self.num_features, num_classes)
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        stage1, down2, stage2, down3, stage3, down4, stage4 = self.network
        return (self.patch_embed, stage1), (down2, stage2), (down3, stage3), (down4, stage4)

    def normalise(self, x: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.norm(x)


def _stage(chans: int, *, depth: int, mixer: MixerFactory, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*(AdditiveBlock(chans, mixer=mixer, dilation=dilation) for _ in range(depth)))


class AdditiveBlock(nn.Module):
    """Integration, token mixer, MLP; each with a skip (section 3.3)."""

    def __init__(self, chans: int, *, mixer: MixerFactory, dilation: int = 1) -> None:
        super().__init__()
        self.local_perception = _LocalIntegration(chans, dilation)
        self.norm1 = nn.BatchNorm2d(chans)
        self.attn = dilate(mixer(chans), dilation)
        self.drop_path = DropPath()
        self.norm2 = nn.BatchNorm2d(chans)
        self.mlp = _Mlp(chans, EXPANSION * chans)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local_perception(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _LocalIntegration(nn.Module):
    def __init__(self, chans: int, dilation: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(chans, chans, 1),
            nn.BatchNorm2d(chans),
            nn.Conv2d(chans, chans, 3, padding=dilation, dilation=dilation, groups=chans),
            nn.GELU(),
            nn.Conv2d(chans, chans, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


class _Mlp(nn.Module):
    def __init__(self, chans: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(chans, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, chans, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def build(spec: CASViTSpec, options: BuildOptions = DEFAULTS) -> Callable[[int, int], CASViT]:
    """What makes the network of a spec from (number of classes, input channels)."""

    def make(num_classes: int, in_chans: int) -> CASViT:
        return CASViT(
            spec,
            num_classes=num_classes,
            in_chans=in_chans,
            output_stride=options.output_stride,
            mixer=options.mixer_factory,
        )

    return make


_AT_224 = Preprocessing(
    size=224, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, interpolation="bicubic", crop=0.875
)


def _entry(name: str, spec: CASViTSpec, preprocessing: Preprocessing) -> ModelEntry:
    return ModelEntry(
        name=name,
        family="cas_vit",
        preprocessing=preprocessing,
        code_licence="Apache-2.0",
        weights_licence="not stated (the official code is MIT)",
        source="arXiv 2408.03703, github.com/Tianfang-Zhang/CAS-ViT",
        hub=None,
        build=build(spec),
        configure=partial(build, spec),
        mixer=MIXER,
    )


_AT_384 = replace(_AT_224, size=384, crop=1.0, crop_mode="squash")
register(*(_entry(name, spec, _AT_224) for name, spec in SPECS.items()))
register(*(_entry(f"{name}_384", spec, _AT_384) for name, spec in SPECS.items()))
