"""Attention biases that were learned for the distances within one map size, on a map of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

__all__ = ["BiasedAttention", "position_biases"]


class BiasedAttention(nn.Module):
    """Attention that adds a learned number to the score of each pair of positions.

    Args:
        table: what was learned: for each head, a number for each vertical and horizontal distance.
        trained_size: height and width of the map it was learned on.
        query_stride: only every so many-th row and column of the map asks.

    Shape:
        `table` is `(heads, h w)` for a trained size of `(h, w)`.
    """

    def __init__(self, table: nn.Parameter, trained_size: tuple[int, int], *, query_stride: int = 1) -> None:
        super().__init__()
        self.attention_biases = table
        self.trained_size = trained_size
        self.query_stride = query_stride
        self._kept: tuple[Any, Tensor] | None = None

    def biases(self, size: tuple[int, int]) -> Tensor:
        """What to add to the scores on a map of this `size`, `(heads, queries, H W)`; see `position_biases`.

        Without gradients the result for the last size is kept, until the table changes.
        """
        table = self.attention_biases
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or table.is_inference():
            return self._compute(size)
        state = (size, table.device, table.dtype, table._version)
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._compute(size)
        return self._kept[1]

    def _compute(self, size: tuple[int, int]) -> Tensor:
        table = self.attention_biases.unflatten(1, self.trained_size)
        return position_biases(table, size, query_stride=self.query_stride)

    def train(self, mode: bool = True) -> Self:
        """As any module; forgets what is kept, because `Tensor.data` can change a table unnoticed."""
        self._kept = None
        return super().train(mode)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._kept = None
        return super()._apply(fn, recurse)


def position_biases(table: Tensor, size: tuple[int, int], *, query_stride: int = 1) -> Tensor:
    """Spread a table of biases over all pairs of positions, as in LeViT (Graham et al. 2021).

    The bias of a query at (i, j) and a key at (k, l) is the table's number for the distance
    (|i - k|, |j - l|). A table learned on a map h × w serves another size after interpolation: a distance d
    of H positions is the same part of the image as d h / H of the h positions, so that is where its number is
    read, linearly between the two nearest, and beyond the largest distance h - 1 the last one stays. At the
    trained size nothing is interpolated and the numbers are the learned ones exactly.

    Interpolating learned biases is usual (Swin Transformer, Liu et al. 2021, section 3.2, bicubic). Linear
    here, because these tables end at distance 0, where a cubic would need values that do not exist, and
    because it never leaves the range of the learned numbers.

    Args:
        table: a number for each head and each vertical and horizontal distance.
        size: rows H and columns W of the map.
        query_stride: only rows and columns 0, s, 2 s, ... ask.

    Shape:
        `(heads, h, w)` to `(heads, ceil(H / s) ceil(W / s), H W)`.
    """
    H, W = size
    table = _stretch(_stretch(table, H, dim=1), W, dim=2)
    rows, columns = (_distances(side, query_stride, table.device) for side in size)
    return table[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3).flatten(1, 2)


def _stretch(table: Tensor, size: int, *, dim: int) -> Tensor:
    """Read a dimension of n distances at the `size` distances d n / size; whole numbers keep that exact.

    No whole number is added or multiplied in a tensor: torchao's quantization makes floats of such.
    """
    trained = table.shape[dim]
    end = size * trained
    place = torch.arange(0, end, trained, device=table.device).clamp(max=end - size)
    below = place // size
    above = (torch.arange(size, end + size, trained, device=table.device) // size).clamp(max=trained - 1)
    share = (place % size).to(table.dtype) / size
    share = share.reshape([-1 if axis == dim else 1 for axis in range(table.dim())])
    return torch.lerp(table.index_select(dim, below), table.index_select(dim, above), share)


def _distances(size: int, stride: int, device: torch.device) -> Tensor:
    """|q - k| of queries q = 0, s, 2 s, ... and keys k = 0, 1, 2, ...: `(queries, keys)`."""
    keys = torch.arange(size, device=device)
    return (keys[::stride, None] - keys).abs()
