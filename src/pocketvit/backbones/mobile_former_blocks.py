"""The blocks of Mobile-Former: each a row of the paper's tables (Chen et al. 2022)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from timm.layers.drop import DropPath
from torch import Tensor, nn

from pocketvit.backbones.mobile_former_layers import (
    ChannelShuffle,
    DynamicReLU,
    Former,
    FormerToMobile,
    MobileToFormer,
)
from pocketvit.backbones.options import Reduction

__all__ = ["DownBlock", "FlatBlock", "LiteBlock", "Row", "Streams", "make_block", "mix", "pointwise"]

Streams = tuple[Tensor, Tensor]
"""The feature map X `(B, C, H, W)` and the tokens Z `(B, M, d)`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper's table.

    Attributes:
        block: "lite" leaves the tokens alone, "flat" keeps the size, "down" halves it.
        expansion: channels of the first depthwise convolution over those of the input.
        out: channels of the output.
    """

    block: Literal["lite", "flat", "down"]
    expansion: int
    out: int
    stride: int = 1


def make_block(row: Row, chans: int, step: Reduction, *, dim: int, groups: int) -> nn.Module:
    """The block of a row for a map of `chans` channels, tokens of width `dim`, convolutions in `groups`."""
    match row.block:
        case "lite":
            return LiteBlock(row, chans, step, groups=groups)
        case "flat":
            return FlatBlock(row, chans, step, dim=dim, groups=groups)
        case "down":
            return DownBlock(row, chans, step, dim=dim, groups=groups)


class LiteBlock(nn.Module):
    """Depthwise 3×3 that widens, 1×1; a skip where the shape stays. The tokens pass by."""

    def __init__(self, row: Row, chans: int, step: Reduction, *, groups: int) -> None:
        super().__init__()
        self.skip = row.stride == 1 and row.out == chans
        self.conv = nn.Sequential(
            *_depthwise(chans, row.expansion * chans, stride=step.stride, dilation=step.first),
            nn.ReLU6(),
            mix(chans, groups),
            *pointwise(row.expansion * chans, row.out, groups=groups),
        )

    def forward(self, streams: Streams) -> Streams:
        """The map after the convolutions, and the tokens."""
        x, z = streams
        y = self.conv(x)
        return (x + y if self.skip else y), z


class _Block(nn.Module, ABC):
    """What both two-stream blocks share: Z reads X, Z attends to itself, convolutions, X reads Z."""

    def __init__(self, row: Row, chans: int, *, dim: int) -> None:
        super().__init__()
        self.local_global = MobileToFormer(chans, dim)
        self.global_block = Former(dim)
        self.global_local = FormerToMobile(row.out, dim)

    def forward(self, streams: Streams) -> Streams:
        x, z = streams
        z = self.global_block(self.local_global(x, z))
        return self.global_local(self.convolve(x, z[:, 0]), z), z

    @abstractmethod
    def convolve(self, x: Tensor, token: Tensor) -> Tensor: ...


class FlatBlock(_Block):
    """1×1, depthwise 3×3, 1×1 as in MobileNetV2, with dynamic ReLUs; a skip where the width stays."""

    def __init__(self, row: Row, chans: int, step: Reduction, *, dim: int, groups: int) -> None:
        super().__init__(row, chans, dim=dim)
        hidden = row.expansion * chans
        self.skip = row.out == chans
        self.conv1 = nn.Sequential(*pointwise(chans, hidden, groups=groups), mix(groups, groups))
        self.hyper1 = DynamicReLU(hidden, dim)
        self.conv2 = nn.Sequential(*_depthwise(hidden, hidden, dilation=step.dilation))
        self.hyper2 = DynamicReLU(hidden, dim)
        self.conv3 = nn.Sequential(*pointwise(hidden, row.out, groups=groups), mix(groups, groups))
        self.drop_path = DropPath()

    def convolve(self, x: Tensor, token: Tensor) -> Tensor:
        """X after the convolutions, steered by the first token `(B, d)`."""
        y = self.hyper1(self.conv1(x), token)
        y = self.conv3(self.hyper2(self.conv2(y), token))
        return x + self.drop_path(y) if self.skip else y


class DownBlock(_Block):
    """Half the size: depthwise 3×3 of stride 2, 1×1, then depthwise 3×3 and 1×1 with a skip."""

    SECOND_EXPANSION = 4

    def __init__(self, row: Row, chans: int, step: Reduction, *, dim: int, groups: int) -> None:
        super().__init__(row, chans, dim=dim)
        first, second = row.expansion * chans, self.SECOND_EXPANSION * row.out
        self.conv1 = nn.Sequential(
            *_depthwise(chans, first, stride=step.stride, dilation=step.first), mix(chans, groups)
        )
        self.hyper1 = DynamicReLU(first, dim)
        self.conv2 = nn.Sequential(*pointwise(first, row.out, groups=groups))
        self.conv3 = nn.Sequential(*_depthwise(row.out, second, dilation=step.dilation), mix(row.out, groups))
        self.hyper3 = DynamicReLU(second, dim)
        self.conv4 = nn.Sequential(*pointwise(second, row.out, groups=groups))
        self.drop_path = DropPath()

    def convolve(self, x: Tensor, token: Tensor) -> Tensor:
        """X after the convolutions, steered by the first token `(B, d)`."""
        x = self.conv2(self.hyper1(self.conv1(x), token))
        return x + self.drop_path(self.conv4(self.hyper3(self.conv3(x), token)))


def pointwise(in_chans: int, out_chans: int, *, groups: int) -> tuple[nn.Module, nn.Module]:
    """1×1 convolution and its normalisation."""
    return nn.Conv2d(in_chans, out_chans, 1, groups=groups, bias=False), nn.BatchNorm2d(out_chans)


def _depthwise(
    in_chans: int, out_chans: int, *, stride: int = 1, dilation: int
) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(in_chans, out_chans, 3, stride, dilation, dilation=dilation, groups=in_chans, bias=False)
    return conv, nn.BatchNorm2d(out_chans)


def mix(rows: int, groups: int) -> nn.Module:
    """A channel shuffle where the 1×1 convolutions have groups, so that these exchange channels."""
    return ChannelShuffle(rows) if groups > 1 else nn.Identity()
