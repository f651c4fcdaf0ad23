"""Bridge blocks, where convolutions hand over to attention, and the way from an operator to their end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from typing_extensions import override

from pocketvit.quantization.calibration import Calibration
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator

__all__ = ["Bridge", "Remainder", "bridges"]


@dataclass(frozen=True)
class Bridge:
    """A bridge block (Q-HyViT, section III).

    Attributes:
        operators: all in it, in order.
        outputs: those of them that no other of them depends on: what leaves the block.
    """

    operators: tuple[Operator, ...]
    outputs: tuple[Operator, ...]


def bridges(network: QuantizedNetwork) -> list[Bridge]:
    """The bridge blocks that the network's backbone names (`Backbone.bridge_blocks`), in order.

    A block is what the named modules do and what lies on the way from one of them to another, such as the
    norm between a convolution and an attention.

    Raises:
        ConfigError: a named module has no operator in this network.
    """
    nodes = _operator_nodes(network)
    found: list[Bridge] = []
    for patterns in network.bridge_blocks:
        named = [nodes[operator] for pattern in patterns for operator in network.matching(pattern)]
        between = _downstream(named) & _upstream(named)
        inside = [operator for operator, node in nodes.items() if node in between]
        last = [nodes[operator] for operator in inside]
        outputs = [o for o in inside if not (_downstream([nodes[o]]) - {nodes[o]}).intersection(last)]
        found.append(Bridge(tuple(inside), tuple(outputs)))
    return found


class Remainder:
    """The part of a network between one operator's output and the outputs of its bridge block.

    What it reads besides the operator's output is that of the float network; its own operators compute in
    their present state.

    Args:
        start: the operator before it.
        ends: operators whose outputs are returned if they depend on `start`; one of them does.

    Attributes:
        ends: those that depend on it.
        float_outputs: what each of them returns in the float network.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        calibration: Calibration,
        *,
        start: Operator,
        ends: Sequence[Operator],
    ) -> None:
        nodes = _operator_nodes(network)
        affected = _downstream([nodes[start]])
        self.ends = [operator for operator in ends if nodes[operator] in affected]
        end_nodes = [nodes[operator] for operator in self.ends]
        wanted = _upstream(end_nodes)
        tensors = _Recorder(network, nodes=None).record(calibration.images[:1])
        inside = {node for node in wanted if node in affected and node is not nodes[start]}
        self._outside: dict[fx.Node, None] = {}
        self._take(inside, affected, tensors)
        self._values = _Recorder(network, nodes=[*self._outside, *end_nodes]).record(calibration.images)
        self.float_outputs = [self._values[node] for node in end_nodes]
        self._images = len(calibration.images)
        self._run = self._build(network, nodes[start], end_nodes, inside)

    def __call__(self, output: Tensor, images: slice) -> tuple[Tensor, ...]:
        """Outputs of the block for `output` of the operator, (images, …), of these calibration images."""
        read = [image_rows(self._values[node], images, self._images) for node in self._outside]
        return self._run(output, *read)

    def _take(self, inside: set[fx.Node], affected: set[fx.Node], tensors: Collection[fx.Node]) -> None:
        """Sort what the nodes inside read: tensors come from outside, sizes are computed inside."""
        waiting = list(inside)
        while waiting:
            for node in waiting.pop().all_input_nodes:
                if node in affected or node in inside:
                    continue
                if node.op == "get_attr" or (node.op == "call_function" and node not in tensors):
                    inside.add(node)
                    waiting.append(node)
                else:
                    self._outside[node] = None

    def _build(
        self, network: QuantizedNetwork, start: fx.Node, ends: Sequence[fx.Node], inside: set[fx.Node]
    ) -> fx.GraphModule:
        graph = fx.Graph()
        copies = {start: graph.placeholder("output")}
        for index, node in enumerate(self._outside):
            copies[node] = graph.placeholder(f"outside_{index}")
        for node in network.graph_module.graph.nodes:
            if node in inside:
                copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in ends))
        return fx.GraphModule(network.graph_module, graph)


def image_rows(x: Tensor, images: slice, count: int) -> Tensor:
    """The part of `x` that belongs to these of `count` images; each has as many rows of dimension 0.

    Raises:
        ValueError: the rows do not divide among the images.
    """
    each, left = divmod(len(x), count)
    if left:
        raise ValueError(f"{len(x)} rows do not divide among {count} images.")
    return x[images.start * each : images.stop * each]


class _Recorder(fx.Interpreter):
    """Runs the float network and keeps what chosen nodes return where it is a tensor; `None` is all nodes."""

    def __init__(self, network: QuantizedNetwork, *, nodes: Collection[fx.Node] | None) -> None:
        super().__init__(network.graph_module)
        self._network, self._nodes = network, nodes
        self._found: dict[fx.Node, Tensor] = {}

    def record(self, images: Tensor) -> dict[fx.Node, Tensor]:
        with torch.no_grad(), self._network.only([]):
            self.run(images)
        return self._found

    @override
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and (self._nodes is None or n in self._nodes):
            self._found[n] = result
        return result


def _operator_nodes(network: QuantizedNetwork) -> dict[Operator, fx.Node]:
    """The graph node of every operator, in order."""
    found: dict[Operator, fx.Node] = {}
    for node in network.graph_module.graph.nodes:
        if node.op == "call_module":
            operator = network.graph_module.get_submodule(str(node.target))
            assert isinstance(operator, Operator)
            found[operator] = node
    return found


def _downstream(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that depend on them."""
    return _closure(nodes, lambda node: node.users)


def _upstream(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that they depend on."""
    return _closure(nodes, lambda node: node.all_input_nodes)


def _closure(nodes: Iterable[fx.Node], neighbours: Any) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(neighbours(node))
    return seen
