"""Mobile-Former: a MobileNet and a transformer of a few tokens side by side (Chen et al., CVPR 2022).

Paper: https://arxiv.org/abs/2108.05895 (section 3). Parameter names are those of the published
checkpoints. All code is our own: the only public port of the paper states no licence.

Two streams run through the network: a feature map X `(B, C, H, W)` of the convolutions ("Mobile") and M
learned tokens Z `(B, M, d)` ("Former"). In each block Z reads X, attends to itself, steers the activations of
the convolutions, and is read by X. `SPECS` has the tables; each line of rows is a stride: 4, 8, 16, 32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone, Level, check_images, make_classifier
from pocketvit.backbones.mobile_former_blocks import Row, Streams, make_block, mix, pointwise
from pocketvit.backbones.mobile_former_layers import FormerToMobile, MobileToFormer
from pocketvit.backbones.options import DEFAULTS, BuildOptions, Reduction, reductions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, register

__all__ = ["SPECS", "MobileFormer", "MobileFormerSpec", "Row", "build"]

HEAD_EXPANSION = 6  # of the last 1×1 convolution


def _lite(out: int, *, expansion: int = 2, stride: int = 1) -> Row:
    return Row(block="lite", expansion=expansion, out=out, stride=stride)


def _flat(expansion: int, out: int) -> Row:
    return Row(block="flat", expansion=expansion, out=out)


def _down(out: int) -> Row:
    return Row(block="down", expansion=6, out=out, stride=2)


@dataclass(frozen=True, kw_only=True)
class MobileFormerSpec:
    """Channels of the stem, the blocks in order, and the hidden width of the head.

    Attributes:
        tokens: number M of tokens.
        dim: width d of a token.
        groups: of every 1×1 convolution.
    """

    stem: int
    tokens: int
    dim: int
    hidden: int
    rows: tuple[Row, ...]
    groups: int = 1


_ROWS_52M = (
    *(_lite(12, expansion=3, stride=2), _flat(3, 12)),
    *(_down(24), _flat(3, 24)),
    *(_down(48), _flat(4, 48), _flat(6, 64)),
    *(_down(96), _flat(6, 96)),
)
_ROWS_96M = (
    *(_lite(12), _down(16)),
    *(_down(32), _flat(3, 32)),
    *(_down(64), _flat(4, 64), _flat(6, 88)),
    *(_down(128), _flat(6, 128)),
)
_ROWS_151M = (
    *(_lite(12), _down(16), _flat(3, 16)),
    *(_down(32), _flat(3, 32)),
    *(_down(64), _flat(4, 64), _flat(6, 88), _flat(6, 88)),
    *(_down(128), _flat(6, 128), _flat(6, 128)),
)
_ROWS_214M = (
    *(_lite(12), _down(20), _flat(3, 20)),
    *(_down(40), _flat(4, 40)),
    *(_down(80), _flat(4, 80), _flat(6, 112), _flat(6, 112)),
    *(_down(160), _flat(6, 160), _flat(6, 160)),
)
_ROWS_294M = (
    *(_lite(16), _down(24), _flat(4, 24)),
    *(_down(48), _flat(4, 48)),
    *(_down(96), _flat(4, 96), _flat(6, 128), _flat(6, 128)),
    *(_down(192), _flat(6, 192), _flat(6, 192)),
)
_ROWS_508M = (
    *(_lite(24), _down(40), _flat(3, 40)),
    *(_down(72), _flat(3, 72)),
    *(_down(128), _flat(4, 128), _flat(6, 176), _flat(6, 176)),
    *(_down(240), _flat(6, 240), _flat(6, 240)),
)

SPECS = {
    "mobile_former_26m": MobileFormerSpec(stem=8, tokens=3, dim=128, hidden=1024, rows=_ROWS_52M, groups=4),
    "mobile_former_52m": MobileFormerSpec(stem=8, tokens=3, dim=128, hidden=1024, rows=_ROWS_52M),
    "mobile_former_96m": MobileFormerSpec(stem=12, tokens=4, dim=128, hidden=1280, rows=_ROWS_96M),
    "mobile_former_151m": MobileFormerSpec(stem=12, tokens=6, dim=192, hidden=1280, rows=_ROWS_151M),
    "mobile_former_214m": MobileFormerSpec(stem=12, tokens=6, dim=192, hidden=1600, rows=_ROWS_214M),
    "mobile_former_294m": MobileFormerSpec(stem=16, tokens=6, dim=192, hidden=1920, rows=_ROWS_294M),
    "mobile_former_508m": MobileFormerSpec(stem=24, tokens=6, dim=192, hidden=1920, rows=_ROWS_508M),
}


class MobileFormer(Backbone):
    """Mobile-Former; see `Backbone` for the interface.

    The feature maps of the levels are X. `forward_features` returns the last convolution's channels and then
    the first token, the same at every position: one map, so that `forward_head` needs nothing else.

    With an output stride below 32 the last blocks that halve the map keep its size and the depthwise
    convolutions from there on are dilated (see `reductions`); neither paper nor official code has a rule of
    its own for this.
    """

    classifiers = ("classifier.classifier.1",)

    def __init__(
        self, spec: MobileFormerSpec, *, num_classes: int = 1000, in_chans: int = 3, output_stride: int = 32
    ) -> None:
        last_rows = _last_rows(spec.rows)
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            widths=[spec.rows[index].out for index in last_rows],
            level_names=[f"features.{index}" for index in last_rows],
            output_stride=output_stride,
        )
        chans = spec.rows[-1].out
        self.num_features = HEAD_EXPANSION * chans + spec.dim
        self.head_hidden_size = spec.hidden
        self.tokens = nn.Embedding(spec.tokens, spec.dim)
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, spec.stem, 3, 2, 1, bias=False), nn.BatchNorm2d(spec.stem), nn.ReLU6()
        )
        widths = [spec.stem, *(row.out for row in spec.rows)]
        self.features = nn.Sequential(
            *(
                make_block(row, width, step, dim=spec.dim, groups=spec.groups)
                for row, width, step in zip(spec.rows, widths, _steps(spec.rows, output_stride), strict=False)
            )
        )
        self.local_global = MobileToFormer(chans, spec.dim)
        self.classifier = _Head(chans, spec, num_classes)
        # every time one stream reads the other
        readers = (n for n, m in self.named_modules() if isinstance(m, MobileToFormer | FormerToMobile))
        self.bridge_blocks = tuple((name,) for name in readers)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(
                    module.weight, std=(2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5
                )

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """The modules of each level. The stem takes images; the blocks take and return both streams."""
        ends = [int(info["module"].rpartition(".")[2]) + 1 for info in self.feature_info]
        blocks = tuple(self.features)
        first, second, third, fourth = (blocks[a:b] for a, b in zip((0, *ends), ends, strict=False))
        return (self.stem, *first), second, third, fourth

    def forward_features(self, x: Tensor) -> Tensor:
        """The last convolution's map and the first token, `(B, num_features, ceil(H / 32), ceil(W / 32))`."""
        return self._finish(self._run_levels(x, self.levels())[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Pool and classify what `forward_features` returned; without pooling, return that itself."""
        if not self.global_pool:
            return x
        x = self.classifier.hidden(x.mean(dim=(2, 3)))
        return x if pre_logits else self.classifier.classifier(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The feature maps X of chosen levels; see `Backbone`. There is no norm to apply to the last one.

        With `stop_early` before the last level the first result is X there, not the final features.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"Features are NCHW; '{output_fmt}' is not supported.")
        levels = self.levels()
        chosen, last_chosen = feature_take_indices(len(levels), indices)
        streams = self._run_levels(x, levels[: last_chosen + 1] if stop_early else levels)
        maps = [streams[index][0] for index in chosen]
        if intermediates_only:
            return maps
        return (self._finish(streams[-1]) if len(streams) == len(levels) else streams[-1][0]), maps

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """See `Backbone`; the classifier reads the hidden layer of the head."""
        super().reset_classifier(0, global_pool)
        self.num_classes = num_classes
        like = self.tokens.weight
        fresh = make_classifier(self.head_hidden_size, num_classes).to(device=like.device, dtype=like.dtype)
        self.classifier.classifier[1] = fresh.train(self.training)

    def _run_levels(self, x: Tensor, levels: Sequence[Level]) -> list[Streams]:
        """Both streams after each of the levels, the first of which begins with the stem."""
        check_images(x, self.in_chans)
        streams: Streams = self._run((self.stem,), x), self.tokens.weight.repeat(x.shape[0], 1, 1)
        results: list[Streams] = []
        for level in levels:
            streams = self._run(tuple(block for block in level if block is not self.stem), streams)
            results.append(streams)
        return results

    def _finish(self, streams: Streams) -> Tensor:
        x, z = streams
        z = self.local_global(x, z)
        x = self.classifier.conv(x)
        B, _, H, W = x.shape
        return torch.cat([x, z[:, 0, :, None, None].expand(B, -1, H, W)], dim=1)


class _Head(nn.Module):
    def __init__(self, chans: int, spec: MobileFormerSpec, num_classes: int) -> None:
        super().__init__()
        self.wide = wide = HEAD_EXPANSION * chans
        self.conv = nn.Sequential(
            mix(spec.groups, spec.groups), *pointwise(chans, wide, groups=spec.groups), nn.ReLU6()
        )
        self.act = nn.Hardswish()
        self.fc = nn.Sequential(
            nn.Linear(wide + spec.dim, spec.hidden), nn.BatchNorm1d(spec.hidden), nn.Hardswish()
        )
        # The published classifier follows a dropout layer, hence its index.
        self.classifier = nn.Sequential(nn.Dropout(0.0), make_classifier(spec.hidden, num_classes))

    def hidden(self, pooled: Tensor) -> Tensor:
        """What the classifier reads: the pooled map is activated, the token is not."""
        x, token = pooled.split([self.wide, pooled.shape[1] - self.wide], dim=1)
        return self.fc(torch.cat([self.act(x), token], dim=1))


def _last_rows(rows: tuple[Row, ...]) -> list[int]:
    """The last row of each of the strides 4, 8, 16 and 32; the stem has stride 2."""
    starts = [index for index, row in enumerate(rows) if row.stride == 2]
    return [start - 1 for start in starts[1:]] + [len(rows) - 1]


def _steps(rows: tuple[Row, ...], output_stride: int) -> Iterator[Reduction]:
    """Stride and dilations of each row, given the stride at which the network stops downsampling."""
    same = Reduction(stride=1, first=1, dilation=1)
    levels = iter((Reduction(stride=2, first=1, dilation=1), *reductions(output_stride)))
    for row in rows:
        step = next(levels) if row.stride == 2 else same
        same = Reduction(stride=1, first=step.dilation, dilation=step.dilation)
        yield step


def build(spec: MobileFormerSpec, options: BuildOptions = DEFAULTS) -> Callable[[int, int], MobileFormer]:
    """What makes the network of a spec from (number of classes, input channels)."""

    def make(num_classes: int, in_chans: int) -> MobileFormer:
        return MobileFormer(
            spec, num_classes=num_classes, in_chans=in_chans, output_stride=options.output_stride
        )

    return make


register(
    *(
        ModelEntry(
            name=name,
            family="mobile_former",
            preprocessing=Preprocessing(
                size=224,
                mean=IMAGENET_DEFAULT_MEAN,
                std=IMAGENET_DEFAULT_STD,
                interpolation="bilinear",
                crop=0.875,
            ),
            code_licence="Apache-2.0",
            weights_licence="no licence stated (all rights reserved)",
            source="arXiv 2108.05895, github.com/AAboys/MobileFormer",
            hub=None,
            build=build(spec),
            configure=partial(build, spec),
        )
        for name, spec in SPECS.items()
    )
)
