"""Running the float and the quantized network side by side, operator by operator."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from pocketvit.quantization.calibration import Calibration, Sample
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator

__all__ = ["Step", "walk"]


@dataclass(frozen=True)
class Step:
    """One operator about to run in the quantized network.

    Attributes:
        operator: it; what is done to it now decides what the operators after it read.
        wanted: what it read and returned in the float network.
        inputs: what it reads in the quantized network, before its own quantizers.
    """

    operator: Operator
    wanted: Sample
    inputs: tuple[Tensor, ...]


def walk(network: QuantizedNetwork, calibration: Calibration) -> Generator[Step]:
    """Every operator in order, with what it reads in both networks; it runs when the next is asked for.

    The samples of an operator are those of the network as it was when the walk began, so weights may change.
    Holds what is alive at a time, for all images together.
    """
    graph = network.graph_module.graph
    modules = dict(network.graph_module.named_modules())
    last_use = _last_uses(graph)
    real: dict[fx.Node, Any] = {}
    quantized: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder":
                real[node] = quantized[node] = calibration.images
            elif node.op == "get_attr":
                real[node] = quantized[node] = getattr(network.graph_module, str(node.target))
            elif node.op == "call_module":
                operator = modules[str(node.target)]
                assert isinstance(operator, Operator)
                inputs = _values(node, real)
                output = operator.compute(inputs, operator.weight)
                read = _values(node, quantized)
                yield Step(operator, Sample(inputs, output), read)
                real[node], quantized[node] = output, operator(*read)
            elif node.op == "call_function":
                for values in (real, quantized):
                    args: Any = fx.map_arg(node.args, values.__getitem__)
                    kwargs: Any = fx.map_arg(node.kwargs, values.__getitem__)
                    values[node] = node.target(*args, **kwargs)  # pyright: ignore
            for done in last_use.get(node, ()):
                del real[done], quantized[done]


def _values(node: fx.Node, values: dict[fx.Node, Any]) -> tuple[Tensor, ...]:
    return tuple(values[x] for x in node.args if isinstance(x, fx.Node))


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node the values that nobody reads after it."""
    seen: set[fx.Node] = set()
    uses: dict[fx.Node, list[fx.Node]] = {}
    for node in reversed(graph.nodes):
        for read in node.all_input_nodes:
            if read not in seen:
                seen.add(read)
                uses.setdefault(node, []).append(read)
    return uses
