"""A network as a graph of operators, each of which can be switched between float and integers."""

from __future__ import annotations

import fnmatch
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from torch import Tensor, fx, nn

from pocketvit.core.errors import ConfigError
from pocketvit.core.names import unknown_name
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.spec import Runtime

__all__ = ["IMAGE", "Operand", "QuantizedNetwork"]

IMAGE = "image"
"""Name of the graph's input."""

Operand = tuple[str, int]
"""An operator's name, and which of its inputs."""


class QuantizedNetwork(nn.Module):
    """The inference graph of a network; what can be quantized is an `Operator`, the rest moves numbers about.

    Attributes:
        graph_module: runs it; calls `operators.0`, `operators.1` … in order.
        size: height and width of its images.
        in_chans: channels of its images.
        sources: for each operand the name of the graph node that computed the numbers it reads, seen through
            reshapes and transposes: operands with one source read the same numbers.
        float_functions: arithmetic of the graph that is no operator and stays in float, with where it stands.
        bridge_blocks: names of modules that the network's backbone calls so; see `quantization.bridges`.
        runtime: what its integers were chosen for, see `QuantizationSpec`.
    """

    runtime: Runtime | None = None

    def __init__(
        self,
        *,
        graph_module: fx.GraphModule,
        size: int,
        in_chans: int,
        sources: dict[Operand, str],
        float_functions: tuple[str, ...],
        bridge_blocks: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        super().__init__()
        self.graph_module, self.size, self.in_chans = graph_module, size, in_chans
        self.sources, self.float_functions = sources, float_functions
        self.bridge_blocks = bridge_blocks

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, size, size)."""
        return self.graph_module(images)

    @property
    def operators(self) -> dict[str, Operator]:
        """Every operator by name, in the order they run."""
        found = (m for m in self.graph_module.get_submodule("operators").children())
        return {m.name: m for m in found if isinstance(m, Operator)}

    def operator(self, name: str) -> Operator:
        """One operator.

        Raises:
            UnknownNameError: there is none of this name.
        """
        operators = self.operators
        if name not in operators:
            raise unknown_name("operator", name, operators)
        return operators[name]

    def matching(self, pattern: str) -> list[Operator]:
        """Operators whose name or module matches a pattern with wildcards, or lies inside a module so named.

        Raises:
            ConfigError: nothing matches.
        """
        found = [
            operator
            for name, operator in self.operators.items()
            if fnmatch.fnmatchcase(name, pattern)
            or fnmatch.fnmatchcase(operator.module, pattern)
            or operator.module.startswith(f"{pattern}.")
        ]
        if not found:
            raise ConfigError(
                f"No operator is called {pattern!r}.",
                fix="`pocketvit quantize … --list` prints their names; wildcards are allowed: 'stages.2.*'.",
            )
        return found

    def reads_image(self, operator: Operator) -> bool:
        """Whether an operator reads the numbers of the image itself."""
        return self.sources[operator.name, 0] == IMAGE

    def only_reader(self, operator: Operator) -> Operator | None:
        """The operator that directly and alone reads what `operator` returns, if there is one."""
        modules: dict[str, nn.Module] = dict(self.graph_module.named_modules())
        for node in self.graph_module.graph.nodes:
            if node.op == "call_module" and modules[str(node.target)] is operator:
                (*readers,) = node.users
                if len(readers) == 1 and readers[0].op == "call_module":
                    reader = modules[str(readers[0].target)]
                    return reader if isinstance(reader, Operator) else None
        return None

    def producer(self, operand: Operand) -> Operator | None:
        """The operator that computed the numbers an operand reads; `None` if no operator did."""
        for node in self.graph_module.graph.nodes:
            if node.name == self.sources[operand] and node.op == "call_module":
                found = self.graph_module.get_submodule(str(node.target))
                return found if isinstance(found, Operator) else None
        return None

    def readers_of(self, operand: Operand) -> list[Operand]:
        """All operands that read the same numbers, itself included."""
        source = self.sources[operand]
        return [other for other, produced in self.sources.items() if produced == source]

    def replace(self, operator: Operator, other: Operator) -> None:
        """Let `other`, of the same name, compute in the place of `operator`."""
        operators = self.graph_module.get_submodule("operators")
        (index,) = (key for key, found in operators.named_children() if found is operator)
        setattr(operators, index, other)

    @contextmanager
    def only(self, quantized: Sequence[Operator]) -> Generator[None]:
        """Within the block these operators are quantized and all others compute in float."""
        before = {operator: operator.quantized for operator in self.operators.values()}
        chosen = set(quantized)
        try:
            for operator in before:
                operator.quantized = operator in chosen
            yield
        finally:
            for operator, state in before.items():
                operator.quantized = state
