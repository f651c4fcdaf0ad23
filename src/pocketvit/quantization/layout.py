"""Tokens taken from maps row by row, as runtimes that keep channels last have maps in memory.

`map.flatten(2)` has channels first, (B, C, H·W): where maps are kept with channels last, all numbers change
places for it, and again for its transpose or for the map that it becomes in the end. So all that is computed
of such tokens has them in dimension 1 instead of the last, (B, H·W, C), with a transpose before what needs
them last: products of matrices take transposed ones as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Activation, Addition, Multiplication
from pocketvit.quantization.reparameterize import node_values

__all__ = ["take_tokens_by_rows"]

aten = torch.ops.aten

_OF_EACH = {aten.clamp.default, aten.rsqrt.default, aten.mul.Tensor, aten.add.Tensor, aten.div.Tensor}
"""Functions of every number."""


def take_tokens_by_rows(graph_module: fx.GraphModule, network: QuantizedNetwork) -> None:
    """Put tokens first where that saves a transpose or leads back to a map; the graph computes the same.

    Args:
        graph_module: the graph of `network`, lowered or not.
    """
    graph, planner = graph_module.graph, _Planner(network)
    for node in list(graph.nodes):
        if node.target is aten.flatten.using_ints and node.args[1:] == (2,):
            steps = planner.follow(node)
            if any(step.becomes in {"itself", "map"} for step in steps):
                _begin(node)
                for step in steps:
                    _take(step)
    graph.lint()
    graph_module.recompile()


@dataclass
class _Step:
    """What becomes of a node that reads rows.

    Attributes:
        becomes: `rows`, maybe with other arguments; `itself`: the rows it reads are what it returns; `map`: a
            map again; `columns`: what it was, behind transposes.
        read: how many dimensions the rows have that it reads, by the node that makes them.
        args: its arguments then, if others than now.
    """

    node: fx.Node
    becomes: Literal["rows", "itself", "map", "columns"]
    read: dict[fx.Node, int]
    args: tuple[Any, ...] = ()


class _Planner:
    def __init__(self, network: QuantizedNetwork) -> None:
        self._operators = dict(network.graph_module.named_modules())
        self._dims = {n.name: v.dim() for n, v in node_values(network).items() if isinstance(v, torch.Tensor)}

    def follow(self, start: fx.Node) -> list[_Step]:
        """Plan what becomes of all that follows from `start`, if that returns rows."""
        rows, steps, node = {start}, list[_Step](), start.next
        while node.op != "root":
            read = {n: self._dims[n.name] for n in node.all_input_nodes if n in rows}
            if read:
                steps.append(self._plan(node, read))
                if steps[-1].becomes == "rows":
                    rows.add(node)
            node = node.next
        return steps

    def _plan(self, node: fx.Node, read: dict[fx.Node, int]) -> _Step:
        x, *rest = node.args
        last = read[x] - 1 if isinstance(x, fx.Node) and x in read else 0
        match node.target, rest:
            case aten.transpose.int, [1, 2] if last == 2:
                return _Step(node, "itself", read)
            case aten.unflatten.int, [2, sizes] if last == 2:
                return _Step(node, "map", read, (x, 1, sizes))
            case aten.unflatten.int, [int(d), sizes] if 1 <= d < last:
                return _Step(node, "rows", read, (x, d + 1, sizes))
            case aten.flatten.using_ints, [int(a), int(b)] if 1 <= a < b < last:
                return _Step(node, "rows", read, (x, a + 1, b + 1))
            case aten.sum.dim_IntList, [[int(d)], True] if 1 <= d < last:
                return _Step(node, "rows", read, (x, [d + 1], True))
            case _ if self._is_of_each(node):
                return _Step(node, "rows", read)
            case _:
                return _Step(node, "columns", read)

    def _is_of_each(self, node: fx.Node) -> bool:
        """Whether a node computes with numbers in one place of tensors of as many dimensions."""
        operator = self._operators.get(str(node.target))
        elementwise = node.target in _OF_EACH or isinstance(operator, Activation | Addition | Multiplication)
        return elementwise and len({self._dims.get(n.name) for n in node.all_input_nodes}) == 1


def _begin(node: fx.Node) -> None:
    with node.graph.inserting_before(node):
        node.args = (node.graph.call_function(aten.permute.default, (node.args[0], [0, 2, 3, 1])), 1, 2)


def _take(step: _Step) -> None:
    node, graph = step.node, step.node.graph
    match step.becomes:
        case "itself":
            (x,) = step.read
            node.replace_all_uses_with(x)
            graph.erase_node(node)
        case "map":
            node.args = step.args
            with graph.inserting_after(node):
                made = graph.call_function(aten.permute.default, (node, [0, 3, 1, 2]))
            node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        case "rows":
            node.args = step.args or node.args
            for other in node.all_input_nodes:
                if other not in step.read:
                    last = max(step.read.values()) - 1
                    _insert_move(node, other, [0, last, *range(1, last)])
        case "columns":
            for x, dims in step.read.items():
                _insert_move(node, x, [0, *range(2, dims), 1])


def _insert_move(node: fx.Node, read: fx.Node, order: list[int]) -> None:
    """Let `node` read dimensions in another order."""
    with node.graph.inserting_before(node):
        node.replace_input_with(read, node.graph.call_function(aten.permute.default, (read, order)))
