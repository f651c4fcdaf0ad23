"""SwiftFormer: efficient additive attention for real-time mobile vision (Shaker et al., ICCV 2023).

Paper: https://arxiv.org/abs/2303.15446 (section 3.3). Parameter names are timm's. Official code:
Amshaker/SwiftFormer.

======  ====================================================================  =========
stride  layers                                                                channels
======  ====================================================================  =========
4       2 conv 3×3 of stride 2, (depths[0] - 1) conv encoders, 1 encoder      widths[0]
8       conv 3×3 of stride 2,   (depths[1] - 1) conv encoders, 1 encoder      widths[1]
16      conv 3×3 of stride 2,   (depths[2] - 1) conv encoders, 1 encoder      widths[2]
32      conv 3×3 of stride 2,   (depths[3] - 1) conv encoders, 1 encoder      widths[3]
======  ====================================================================  =========
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.drop import DropPath
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone, Level, make_classifier
from pocketvit.backbones.layers import Downsample, dilate, patch_stem
from pocketvit.backbones.options import DEFAULTS, BuildOptions, reductions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register
from pocketvit.mixers.registry import MixerFactory, get_mixer

__all__ = ["SwiftFormer", "SwiftFormerSpec", "build"]

MIXER = "additive"
EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class SwiftFormerSpec:
    """Channels and blocks of the four stages."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


SPECS = {
    "swiftformer_xs": SwiftFormerSpec(widths=(48, 56, 112, 220), depths=(3, 3, 6, 4)),
    "swiftformer_s": SwiftFormerSpec(widths=(48, 64, 168, 224), depths=(3, 3, 9, 6)),
    "swiftformer_l1": SwiftFormerSpec(widths=(48, 96, 192, 384), depths=(4, 3, 10, 5)),
    "swiftformer_l3": SwiftFormerSpec(widths=(64, 128, 320, 512), depths=(4, 4, 12, 6)),
}


class SwiftFormer(Backbone):
    """SwiftFormer; see `Backbone` for the interface.

    Two classifiers, the second for a teacher's labels; their mean is returned, in training too, unless
    `distilled_training` is set: then training returns both.

    With an output stride below 32 the last downsamplings become dilated convolutions of stride 1 and the
    depthwise convolutions of their stages are dilated (see `reductions`); neither paper nor official code has
    a rule of its own for this.

    Another mixer stands where efficient additive attention does, in the last block of each stage, and reads
    what that reads: the output of the local representation, all pixels, no norm in between. The learned
    factors after it start at 1e-5 as ever. Its k×k convolutions are dilated as those of its stage.

    Args:
        mixer: what makes the token mixers; `None` is efficient additive attention.
    """

    classifiers = ("head", "head_dist")
    block_patterns = (
        (r"^stages\.(\d+)\.downsample", (0,)),
        (r"^stages\.(\d+)\.blocks\.(\d+)", None),
        (r"^norm", (99999,)),
    )

    def __init__(
        self,
        spec: SwiftFormerSpec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        mixer: MixerFactory | None = None,
    ) -> None:
        names = tuple(f"stages.{index}" for index in range(4))
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            widths=spec.widths,
            level_names=names,
            output_stride=output_stride,
        )
        self.distilled_training = False
        self.stem = patch_stem(in_chans, spec.widths[0])
        c, *deep = spec.widths
        stage = partial(_Stage, mixer=mixer or get_mixer(MIXER))
        self.stages = nn.Sequential(stage(nn.Identity(), c, depth=spec.depths[0]))
        for chans, depth, step in zip(deep, spec.depths[1:], reductions(output_stride), strict=True):
            downsample = Downsample(c, chans, stride=step.stride, dilation=step.first)
            self.stages.append(stage(downsample, chans, depth=depth, dilation=step.dilation))
            c = chans
        # where a stage turns from convolutions to attention: in its last block
        last = [f"stages.{stage}.blocks.{depth - 1}" for stage, depth in enumerate(spec.depths)]
        self.bridge_blocks = tuple((f"{name}.local_representation", f"{name}.attn") for name in last)
        self.norm: nn.Module = nn.BatchNorm2d(self.num_features)
        self.head = make_classifier(self.num_features, num_classes)
        self.head_dist = make_classifier(self.num_features, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        first, second, third, fourth = self.stages
        return (self.stem, first), (second,), (third,), (fourth,)

    def normalise(self, x: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.norm(x)

    def classify(self, x: Tensor) -> Any:
        """See `Backbone`."""
        logits, distilled = self.head(x), self.head_dist(x)
        if self.distilled_training and self.training:
            return logits, distilled
        return (logits + distilled) / 2

    def set_distilled_training(self, enable: bool = True) -> None:
        """Whether training returns the logits of both classifiers instead of their mean."""
        self.distilled_training = enable


class _Stage(nn.Module):
    def __init__(
        self, downsample: nn.Module, chans: int, *, depth: int, mixer: MixerFactory, dilation: int = 1
    ) -> None:
        super().__init__()
        self.downsample = downsample
        convs = (ConvEncoder(chans, hidden=EXPANSION * chans, dilation=dilation) for _ in range(depth - 1))
        self.blocks = nn.Sequential(*convs, Encoder(chans, mixer=mixer, dilation=dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvEncoder(nn.Module):
    """x + γ · conv1×1(GELU(conv1×1(BN(depthwise 3×3(x))))), hidden width `hidden`, γ starts at 1."""

    def __init__(self, chans: int, *, hidden: int, dilation: int = 1) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(chans, chans, 3, padding=dilation, dilation=dilation, groups=chans)
        self.norm = nn.BatchNorm2d(chans)
        self.pwconv1 = nn.Conv2d(chans, hidden, 1)
        self.act = nn.GELU()
        self.pwconv2 = nn.Conv2d(hidden, chans, 1)
        self.drop_path = DropPath()
        self.layer_scale = _LayerScale(chans, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pwconv2(self.act(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + self.drop_path(self.layer_scale(y))


class Encoder(nn.Module):
    """Local representation, token mixer, MLP; each with a skip, the last two scaled."""

    def __init__(self, chans: int, *, mixer: MixerFactory, dilation: int = 1) -> None:
        super().__init__()
        self.local_representation = ConvEncoder(chans, hidden=chans, dilation=dilation)
        self.attn = dilate(mixer(chans), dilation)
        self.linear = _Mlp(chans, EXPANSION * chans)
        self.drop_path = DropPath()
        self.layer_scale_1 = _LayerScale(chans, 1e-5)
        self.layer_scale_2 = _LayerScale(chans, 1e-5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local_representation(x)
        x = x + self.drop_path(self.layer_scale_1(self.attn(x)))
        return x + self.drop_path(self.layer_scale_2(self.linear(x)))


class _Mlp(nn.Module):
    def __init__(self, chans: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(chans)
        self.fc1 = nn.Conv2d(chans, hidden, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, chans, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm1(x))))


class _LayerScale(nn.Module):
    """A learned factor a channel."""

    def __init__(self, chans: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((chans, 1, 1), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def build(spec: SwiftFormerSpec, options: BuildOptions = DEFAULTS) -> Callable[[int, int], SwiftFormer]:
    """What makes the network of a spec from (number of classes, input channels)."""

    def make(num_classes: int, in_chans: int) -> SwiftFormer:
        return SwiftFormer(
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
            family="swiftformer",
            preprocessing=Preprocessing(
                size=224,
                mean=IMAGENET_DEFAULT_MEAN,
                std=IMAGENET_DEFAULT_STD,
                interpolation="bicubic",
                crop=0.95,
            ),
            code_licence="Apache-2.0",
            weights_licence="Apache-2.0",
            source="arXiv 2303.15446, github.com/Amshaker/SwiftFormer",
            hub=f"{name}.dist_in1k",
            build=build(spec),
            configure=partial(build, spec),
            mixer=MIXER,
        )
        for name, spec in SPECS.items()
    )
)
