"""What a change of one operator does to the answers of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator

__all__ = ["LogitError", "Visit", "logit_error", "visits"]


@dataclass(frozen=True)
class LogitError:
    """How far logits are from those wanted.

    Attributes:
        error: Σ (l − l̂)² / Σ l², over images and classes.
        changed: share of the images whose largest logit is of another class.
    """

    error: float
    changed: float


def logit_error(logits: Tensor, wanted: Tensor) -> LogitError:
    """The error of `logits` against `wanted`, (N, classes) each."""
    power = wanted.double().square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    error = (logits.double() - wanted.double()).square().sum() / power
    changed = (logits.argmax(dim=1) != wanted.argmax(dim=1)).double().mean()
    return LogitError(float(error), float(changed))


@dataclass(frozen=True)
class Visit:
    """One operator of a network that is running.

    Attributes:
        operator: it.
        inputs: what it reads, before its own quantizers.
        output: what it returns.
        logits_with: the logits if it returned something else; to be called before the next visit. Only what
            comes after the operator is computed again.
    """

    operator: Operator
    inputs: tuple[Tensor, ...]
    output: Tensor
    logits_with: Callable[[Tensor], Tensor]


def visits(network: QuantizedNetwork, images: Tensor) -> Generator[Visit]:
    """Every operator in order, as it runs in the network's present state. Holds what is alive at a time."""
    machine = fx.Interpreter(network.graph_module)
    values: dict[fx.Node, Any] = machine.env
    for node in network.graph_module.graph.nodes:
        if node.op == "output":
            return
        with torch.no_grad():
            values[node] = images if node.op == "placeholder" else machine.run_node(node)
        operator = machine.submodules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(operator, Operator):
            inputs = tuple(values[read] for read in node.args if isinstance(read, fx.Node))
            finish = partial(_finish, network.graph_module, images, values, node)
            yield Visit(operator, inputs, values[node], finish)
        for done in machine.user_to_last_uses.get(node, ()):
            values[done] = None  # still among the values, so that `_finish` does not compute it again


def _finish(
    graph: fx.GraphModule, images: Tensor, values: dict[fx.Node, Any], node: fx.Node, output: Tensor
) -> Tensor:
    with torch.no_grad():
        logits = fx.Interpreter(graph).run(images, initial_env={**values, node: output})
    return cast(Tensor, logits)
