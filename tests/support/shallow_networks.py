"""Make a network shallow: of blocks of a kind that keep the shape of what passes, the first stays.

Tracing takes seconds for each block, and a second one of a kind is traced like the first. Blocks within a
block are counted for themselves: no attention block is without a layer.
"""

from __future__ import annotations

import torch
from torch import nn

from pocketvit.backbones.mobile_former_blocks import DownBlock, FlatBlock, Row, make_block
from pocketvit.backbones.options import Reduction


def shorten(model: nn.Module, size: int = 64) -> nn.Module:
    """The network itself, without the blocks that repeat another; `size` is that of its images."""
    _lighten(model)
    removable = _shape_keeping(model, size)

    def thin(row: nn.Sequential | nn.ModuleList, seen: list) -> None:
        again = []
        for i, block in enumerate(row):
            if block not in removable:
                continue
            if (kind := _kind(block)) in seen:
                again.append(i)
            else:
                seen.append(kind)
        for i in reversed(again):
            del row[i]

    rows = _rows(model)
    within = {row for block in removable for row in _rows(block)}
    for row in reversed([row for row in rows if row in within]):
        thin(row, [])
    seen: list = []
    for row in [row for row in rows if row not in within]:
        thin(row, seen)
    return model


def _lighten(model: nn.Module) -> None:
    """Let one block of Mobile-Former halve the map and one keep it; its light ones change what is left."""

    def light(block: DownBlock | FlatBlock) -> nn.Module:
        last, stride = (block.conv4[0], 2) if isinstance(block, DownBlock) else (block.conv3[0], 1)
        chans, step = block.conv1[0].in_channels, Reduction(stride=stride, first=1, dilation=1)
        row = Row(block="lite", expansion=1, out=last.out_channels, stride=stride)
        return make_block(row, chans, step, dim=0, groups=last.groups).to(last.weight).train(block.training)

    for kind in (DownBlock, FlatBlock):
        blocks = [(name, block) for name, block in model.named_modules() if isinstance(block, kind)]
        for name, block in blocks[1:]:
            model.set_submodule(name, light(block))


def _kind(module: nn.Module) -> list[tuple]:
    """What a module is made of, whatever its widths and wherever it stands."""

    def numbers(part: nn.Module) -> tuple:
        if isinstance(part, nn.Conv2d):
            return part.kernel_size, part.stride, part.dilation, min(part.groups, 2), part.bias is None
        return ()

    return [(name, type(part), numbers(part)) for name, part in module.named_modules()]


def _rows(module: nn.Module) -> list[nn.Sequential | nn.ModuleList]:
    return [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]


def _shapes(value) -> list[torch.Size]:
    if isinstance(value, tuple | list):
        return [shape for part in value for shape in _shapes(part)]
    return [value.shape] if isinstance(value, torch.Tensor) else []


def _shape_keeping(model: nn.Module, size: int) -> set[nn.Module]:
    """The blocks, in rows, that return what they are given in shape: without them the network still runs."""
    kept = set()

    def look(module: nn.Module, args: tuple, result) -> None:
        if _shapes(args) == _shapes(result):
            kept.add(module)

    rows = _rows(model)
    blocks = {block for row in rows for block in row if block.state_dict() and list(block.children())}
    hooks = [block.register_forward_hook(look) for block in blocks.difference(rows)]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, dtype=next(model.parameters()).dtype))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return kept
