"""Layers between the mixers: convolutions with batch normalisation."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvNorm", "Downsample", "dilate", "patch_stem"]


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, activation; "same" padding for odd kernels.

    Args:
        dilation: distance of the pixels under neighbouring weights.
        act: the activation; `None` is none.

    Shape:
        `(B, in_chans, H, W)` to `(B, out_chans, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel, stride, padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_chans)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        return self.act(self.bn(self.conv(x)))


class Downsample(nn.Module):
    """3×3 convolution (with bias) and batch normalisation; stride 2: half the size, rounded up.

    Stride 1 with dilation takes its place where a network keeps the size (see `reductions`).
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 2, dilation: int = 1) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, out_chans, 3, stride, dilation, dilation=dilation)
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        return self.norm(self.proj(x))


def patch_stem(in_chans: int, out_chans: int) -> nn.Sequential:
    """Two 3×3 convolutions of stride 2, each with batch normalisation and ReLU: a quarter of the size."""
    half = out_chans // 2
    return nn.Sequential(
        nn.Conv2d(in_chans, half, 3, 2, 1),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, out_chans, 3, 2, 1),
        nn.BatchNorm2d(out_chans),
        nn.ReLU(inplace=True),
    )


def dilate(module: nn.Module, dilation: int) -> nn.Module:
    """Move the pixels under neighbouring weights apart in every k×k convolution of `module`, in place.

    Maps keep their size, and `module` is returned.
    """
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size != (1, 1):
            conv.dilation = tuple(dilation * step for step in conv.dilation)
            if not isinstance(conv.padding, str):  # "same" looks at the dilation itself
                conv.padding = tuple(dilation * pixels for pixels in conv.padding)
    return module
