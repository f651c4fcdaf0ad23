"""Channels of zeros beside those of depthwise convolutions, up to whole blocks: the same results, sooner.

ONNX Runtime's integer kernel for a depthwise convolution takes 16 channels at once, and what is left over one
by one, which takes longer than 16 would. Channels may be added where all that makes or reads them has
weights: zero weights make zeros, and zero weights read whatever functions make of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import fx, nn

from pocketvit.quantization.integer_modules import (
    IntegerOperator,
)
from pocketvit.quantization.integer_numbers import StoredFloats, StoredIntegers, more_channels
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Activation,
    Addition,
    Convolution,
    Linear,
    Multiplication,
    Operator,
    Reduction,
)
from pocketvit.quantization.reparameterize import node_values

__all__ = ["BLOCK", "pad_channels"]

BLOCK = 16
"""Channels that the kernel takes at once."""

_MOST = 0.25
"""Of the channels, that may be added: the convolutions around have as much more to do."""


def pad_channels(network: QuantizedNetwork, lowered: Mapping[str, nn.Module]) -> None:
    """Add channels to the operators of a lowered network where that fills the blocks of depthwise ones.

    Args:
        network: the one that was lowered, which stays as it is.
        lowered: what its operators became, by name.
    """
    channels = _Channels(network)
    for tied in channels.that_may_grow():
        count = channels.count(tied[0])
        added = -count % BLOCK
        made = channels.maps(tied)
        if 0 < added <= _MOST * count and any(isinstance(o, Convolution) and o.is_depthwise for o in made):
            for operator in made:
                _widen(lowered[operator.name], axis=0, by=added)
            for operator in channels.maps(channels.readers(tied)):
                _widen(lowered[operator.name], axis=1, by=added)


def _widen(made: nn.Module, *, axis: int, by: int) -> None:
    """Channels of zeros behind those that an operator returns (axis 0) or reads (axis 1)."""
    operator = made.operator if isinstance(made, IntegerOperator) else made
    assert isinstance(operator, Convolution | Linear)
    if isinstance(operator, Convolution) and operator.is_depthwise:
        operator.groups += by
    for name, dimensions in (("weight", 2), ("bias", 1)):
        stored, values = getattr(made, name, None), getattr(operator, name)
        if axis < dimensions and values is not None:
            wider = more_channels(values.detach(), axis, by)
            operator.register_parameter(name, nn.Parameter(wider, requires_grad=False))
        if axis < dimensions and isinstance(stored, StoredIntegers | StoredFloats):
            stored.widen(axis, by)


class _Channels:
    """Which maps of a network must have equally many channels, and which may have more than they have."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self._modules = dict(network.graph_module.named_modules())
        self._values = node_values(network)
        self._tied: dict[fx.Node, list[fx.Node]] = {}
        for node in network.graph_module.graph.nodes:
            self._tied[node] = [node]
            for read in self._passed_on(node):
                self._tie(node, read)

    def that_may_grow(self) -> Iterator[list[fx.Node]]:
        """Nodes that return equally many channels, all of which may become more."""
        for tied in {id(tied): tied for tied in self._tied.values()}.values():
            if all(self._may_grow(node) for node in tied):
                yield tied

    def readers(self, tied: list[fx.Node]) -> list[fx.Node]:
        """What sums over the channels that these nodes return."""
        return list({reader: None for node in tied for reader in node.users if self._sums_channels(reader)})

    def maps(self, nodes: list[fx.Node]) -> list[Convolution | Linear]:
        """What has weights among the operators of these nodes."""
        return [o for o in map(self._operator, nodes) if isinstance(o, Convolution | Linear)]

    def count(self, node: fx.Node) -> int:
        """How many channels a node returns."""
        return self._values[node].shape[1]

    def _operator(self, node: fx.Node) -> Operator | None:
        found = self._modules.get(str(node.target)) if node.op == "call_module" else None
        return found if isinstance(found, Operator) else None

    def _may_grow(self, node: fx.Node) -> bool:
        known = self._sums_channels(node) or bool(self._passed_on(node))
        return known and all(r in self._tied[node] or self._sums_channels(r) for r in node.users)

    def _sums_channels(self, node: fx.Node) -> bool:
        match self._operator(node):
            case Convolution(groups=1):
                return True
            case Linear():  # of vectors (B, C): in tensors of more dimensions channels are the last
                return all(self._values[read].dim() == 2 for read in node.all_input_nodes)
            case _:
                return False

    def _passed_on(self, node: fx.Node) -> list[fx.Node]:
        """What a node reads and returns with the same channels, if that goes for more of them as well."""
        operator, read = self._operator(node), node.all_input_nodes
        if not all(map(self._has_channels, (node, *read))):
            return []
        match operator:
            case Convolution() if operator.is_depthwise and operator.groups == self.count(node):
                return read
            case Activation():
                return read
            case Reduction() if operator.is_global_mean:
                return read
            case Addition() | Multiplication() if all(self.count(n) in {1, self.count(node)} for n in read):
                return [n for n in read if self.count(n) == self.count(node)]
            case _:
                return []

    def _has_channels(self, node: fx.Node) -> bool:
        """Whether a node returns maps (B, C, H, W) or vectors (B, C)."""
        return isinstance(self._values.get(node), torch.Tensor) and self._values[node].dim() in {2, 4}

    def _tie(self, one: fx.Node, other: fx.Node) -> None:
        first, second = self._tied[one], self._tied[other]
        if first is not second:
            first += second
            self._tied.update(dict.fromkeys(second, first))
