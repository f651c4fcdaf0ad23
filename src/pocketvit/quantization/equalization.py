"""Channel equalization: channels that share a range are made equally large; the float network stays the same.

A channel may be divided by a positive α where it is made and multiplied again where it is read, if all that
happens in between lets a factor of a channel through: sums, products with something that is not divided,
ReLU, means, weighted sums of tokens, moves. So whole residual streams can be scaled where norms were folded
into convolutions; a layer or group normalisation, SiLU or GELU ends it.

Sources: cross-layer equalization between two convolutions (Nagel et al. 2019, arXiv 1906.04721, section 4.1),
the scale of a norm taken up by what reads it (RepQ-ViT, arXiv 2212.08254, section 3.2). That the scales that
must be equal are found by following every number through the graph, and so beyond pairs, is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Activation,
    Addition,
    Convolution,
    Linear,
    MatMul,
    Multiplication,
    Norm,
    Operator,
    Reduction,
)
from pocketvit.quantization.reparameterize import node_values, only_moves

__all__ = ["equalize", "equalize_like"]

_SMALLEST = 1 / 64
"""α of channels that hardly ever speak, so that no noise is blown up without bound."""


def equalize(
    network: QuantizedNetwork, operators: Sequence[Operator], calibration: Calibration, *, power: float = 1
) -> None:
    """Divide channels so that within every tensor they reach equally far, as far as that can be had.

    A channel's α is the geometric mean, over the tensors that it is tied through and that `operators` read,
    of its largest |x| as a share of the tensor's largest; 1 where it cannot be divided.

    Args:
        power: of α. Less than 1 leaves some of the difference in the tensors, and moves less of it into the
            weights that read them.
    """
    channels = _Channels(network)
    alpha = channels.reach(operators, calibration).clamp_min(_SMALLEST) ** power
    alpha[0] = 1
    for operator, (read, returned) in channels.maps.items():
        _divide(operator, alpha[channels.roots[read]], alpha[channels.roots[returned]])


def equalize_like(network: QuantizedNetwork, other: QuantizedNetwork) -> None:
    """Divide the channels of `network` as `equalize` divided those of `other`, quantized from the same."""
    for name, operator in network.operators.items():
        scales = dict(other.operator(name).named_buffers(recurse=False))
        if _READ in scales:
            _divide(operator, scales[_READ], scales[_RETURNED])


_READ, _RETURNED = "read_divided_by", "returned_divided_by"


def _divide(operator: Operator, read: Tensor, returned: Tensor) -> None:
    """Let `operator` read x / α and return y / β, channel by channel; it keeps both α and β."""
    assert operator.weight is not None
    operator.register_buffer(_READ, read, persistent=False)
    operator.register_buffer(_RETURNED, returned, persistent=False)
    weight = operator.weight.double() / _rows(returned, operator.weight)
    if not isinstance(operator, Norm):
        groups = operator.groups if isinstance(operator, Convolution) else 1
        columns = read.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        weight = weight * columns.reshape(*columns.shape, *[1] * (weight.dim() - 2))
    operator.weight = _frozen(weight, operator.weight)
    if operator.bias is not None:
        operator.bias = _frozen(operator.bias.double() / returned, operator.bias)


class _Ties:
    """Numbers of channels; those that must have one scale are tied, those tied to 0 cannot be scaled."""

    def __init__(self) -> None:
        self._above = [0]

    def new(self, count: int) -> Tensor:
        first = len(self._above)
        self._above += range(first, first + count)
        return torch.arange(first, first + count, dtype=torch.float64)

    def tie(self, a: Tensor, b: Tensor) -> None:
        pairs = torch.stack([x.flatten() for x in torch.broadcast_tensors(a, b)]).unique(dim=1)
        for one, other in pairs.long().T.tolist():
            first, second = sorted((self._root(one), self._root(other)))
            self._above[second] = first

    def fix(self, a: Tensor) -> None:
        self.tie(a.unique(), torch.zeros(1, dtype=a.dtype))

    def are_fixed(self, a: Tensor) -> bool:
        return all(self._root(number) == 0 for number in a.unique().long().tolist())

    def roots(self) -> Tensor:
        """For each number the one that stands for all tied to it."""
        return torch.tensor([self._root(number) for number in range(len(self._above))])

    def _root(self, number: int) -> int:
        while self._above[number] != number:
            self._above[number] = self._above[self._above[number]]
            number = self._above[number]
        return number


class _Channels:
    """Follows every channel through the graph, by computing with their numbers in the place of tensors.

    Attributes:
        maps: what holds weights, with the numbers of what it reads and returns, (channels,) each.
        roots: for each number the one it is tied to.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        self._network, self._ties = network, _Ties()
        self._values = node_values(network)
        self._numbers: dict[fx.Node, Any] = {}
        self.maps: dict[Operator, tuple[Tensor, Tensor]] = {}
        for node in network.graph_module.graph.nodes:
            self._numbers[node] = self._follow(node)
        self.roots = self._ties.roots()
        self.maps = {o: (read.long(), returned.long()) for o, (read, returned) in self.maps.items()}

    def reach(self, operators: Sequence[Operator], calibration: Calibration) -> Tensor:
        """How far each channel reaches: (numbers,), the share of the largest in the tensors it is in."""
        logs, count = (torch.zeros(len(self.roots), dtype=torch.float64) for _ in range(2))
        chosen = set(operators)
        reads = {self._operator(n): list(_arguments(n)) for n in self._numbers if n.op == "call_module"}
        for operator, sample in samples(self._network, calibration, [o for o in reads if o in chosen]):
            for node, x in zip(reads[operator], sample.inputs, strict=True):
                numbers = self.roots[self._numbers[node].long()]
                if numbers.any():
                    largest = _largest(x, numbers, len(self.roots))
                    seen = largest > 0
                    logs[seen] += (largest[seen] / largest.max()).log()
                    count[seen] += 1
        return (logs / count.clamp_min(1)).exp()

    def _follow(self, node: fx.Node) -> Any:
        """The numbers of the channels at every place of what a node returns."""
        value: Any = self._values.get(node)
        read = [self._numbers[n] for n in node.all_input_nodes]
        if node.op == "call_module":
            return self._through(self._operator(node), [self._numbers[n] for n in _arguments(node)], value)
        if node.op == "call_function" and (only_moves(node) or _name(node) in _MOVES_SEVERAL):
            return self._moved(node)
        if node.op == "call_function" and _is_scaled_alike(node):
            return read[0].expand_as(value)
        for numbers in read:
            map_aggregate(numbers, lambda n: self._ties.fix(n) if isinstance(n, Tensor) else None)
        return _zeros(value)

    def _through(self, operator: Operator, read: list[Tensor], value: Tensor) -> Tensor:
        match operator:
            case Convolution() | Linear():
                channels = self._along(read[0], operator.channel_axis(read[0]))
                return self._made(operator, channels, value, operator.output_axis(value))
            case Norm() if operator.weight is not None and operator.bias is not None:
                self._ties.fix(read[0])
                nothing = torch.zeros(operator.channels, dtype=torch.float64)
                return self._made(operator, nothing, value, operator.channel_axis(value))
            case Addition() if read[0].shape == read[1].shape:
                self._ties.tie(*read)
                return read[0]
            case Multiplication():
                return self._factors(read).expand_as(value)
            case MatMul() if self._ties.are_fixed(read[0]):
                return self._weighted_sum(read[1]).expand_as(value)
            case Activation() if operator.function == "relu":
                return read[0]
            case Reduction() if self._is_within_channels(operator, read[0]):
                return operator.compute(read, None) / operator.compute([torch.ones_like(read[0])], None)
            case _:
                for numbers in read:
                    self._ties.fix(numbers)
                return torch.zeros(value.shape, dtype=torch.float64)

    def _made(self, operator: Operator, read: Tensor, value: Tensor, axis: int) -> Tensor:
        """New numbers for the channels that an operator makes."""
        returned = self._ties.new(value.shape[axis])
        self.maps[operator] = read, returned
        return returned.reshape([-1 if i == axis % value.dim() else 1 for i in range(value.dim())]).expand_as(
            value
        )

    def _along(self, numbers: Tensor, axis: int) -> Tensor:
        """One number for each channel: whatever is read as one channel is tied."""
        rows = numbers.movedim(axis, 0).flatten(1)
        self._ties.tie(rows, rows[:, :1])
        return rows[:, 0]

    def _factors(self, read: list[Tensor]) -> Tensor:
        """A product takes the scale of one factor; the other, as a gate, is not scaled."""
        scaled, other = (
            read if self._ties.are_fixed(read[1]) or read[0].numel() >= read[1].numel() else read[::-1]
        )
        self._ties.fix(other)
        return scaled

    def _weighted_sum(self, read: Tensor) -> Tensor:
        """Of tokens, as by attention: a channel's scale goes through if it is that of all tokens."""
        self._ties.tie(read, read[..., :1, :])
        return read[..., :1, :]

    def _is_within_channels(self, operator: Operator, read: Tensor) -> bool:
        """Whether only numbers of one channel are added up: then the mean of squares is the squared mean."""
        count = operator.compute([torch.ones_like(read)], None)
        mean, square = (operator.compute([x], None) / count for x in (read, read.square()))
        return bool((square - mean.square()).abs().max() < 0.5)

    def _moved(self, node: fx.Node) -> Any:
        def numbers(n: fx.Node) -> Any:
            return self._numbers[n] if isinstance(self._values[n], Tensor | list | tuple) else self._values[n]

        target: Any = node.target
        return target(*fx.map_arg(node.args, numbers), **fx.map_arg(node.kwargs, numbers))

    def _operator(self, node: fx.Node) -> Operator:
        operator = self._network.graph_module.get_submodule(str(node.target))
        assert isinstance(operator, Operator)
        return operator


_MOVES_SEVERAL = {"cat", "stack", "split", "split_with_sizes", "chunk", "unbind", "getitem"}
_SCALES = {"mul", "div"}


def _is_scaled_alike(node: fx.Node) -> bool:
    """Whether a function multiplies with one number for all images and channels."""
    return (
        _name(node) in _SCALES and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], int | float)
    )


def _name(node: fx.Node) -> str:
    return getattr(getattr(node.target, "overloadpacket", node.target), "__name__", "")


def _arguments(node: fx.Node) -> Iterator[fx.Node]:
    """What an operator reads, in order; one node twice where it is read twice."""
    return (read for read in node.args if isinstance(read, fx.Node))


def _largest(x: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The largest |x| at the places of each number, (count,)."""
    over_images = x.abs().reshape(-1, *numbers[: len(numbers) // _IMAGES].shape).amax(dim=0)
    places = numbers[: len(numbers) // _IMAGES]
    return torch.zeros(count, dtype=torch.float64).scatter_reduce(
        0, places.flatten(), over_images.double().flatten(), "amax"
    )


_IMAGES = 2
"""How many `zero_image` holds."""


def _zeros(value: Any) -> Any:
    return map_aggregate(
        value, lambda v: torch.zeros(v.shape, dtype=torch.float64) if isinstance(v, Tensor) else v
    )


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape([-1, *[1] * (weight.dim() - 1)])


def _frozen(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=False)
