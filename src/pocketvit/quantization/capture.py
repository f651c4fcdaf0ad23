"""From a network of modules to the graph of operators that quantization works on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from pocketvit.backbones.base import Backbone
from pocketvit.quantization.builders import BUILDERS, function_name, is_call, module_of, raw_name
from pocketvit.quantization.network import IMAGE, Operand, QuantizedNetwork
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.tracing import trace

__all__ = ["capture"]

aten = torch.ops.aten

_MOVES = {
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unsqueeze", "squeeze", "slice",
    "select", "chunk", "split", "split_with_sizes", "expand", "repeat", "contiguous", "clone", "pad",
    "constant_pad_nd", "getitem", "alias", "t", "unbind", "max_pool2d",
}  # fmt: skip
"""Functions that move numbers and compute none."""

_BOOKKEEPING = {"sym_size", "cat", "new_zeros", "mul", "floordiv", "add"}
"""Functions of sizes, and what joins tensors: neither movement of one tensor nor arithmetic on numbers."""

_NO_WORK = {"dropout", "dropout_", "contiguous", "clone", "alias", "detach", "lift_fresh_copy", "to"}


def capture(model: nn.Module, *, size: int, in_chans: int = 3) -> QuantizedNetwork:
    """The graph of operators of `model` in evaluation mode, for any number of images.

    Whatever does not depend on the image is computed once and kept as a constant; attention that torch runs
    as one fused call is opened into its two products and its softmax.

    Args:
        model: usually rewritten for inference, with its batch normalisations folded.
        size: height and width of the images.

    Raises:
        ExportError: the network cannot be traced into a graph, or only into one for a fixed number of images.
    """
    model = copy.deepcopy(model).to("cpu", torch.float32).eval().requires_grad_(False)
    graph = Rebuilt(trace(model, size=size, in_chans=in_chans))
    graph.run(torch.zeros(2, in_chans, size, size))
    bridge_blocks = model.bridge_blocks if isinstance(model, Backbone) else ()
    return graph.network(size=size, in_chans=in_chans, bridge_blocks=bridge_blocks)


class Rebuilt(fx.Interpreter):
    """Walks the traced graph with an example image and writes the graph of operators beside it."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.root = nn.Module()
        self.root.operators = nn.ModuleList()
        self.out = fx.Graph()
        self.nodes: dict[fx.Node, fx.Node] = {}  # of the traced graph, to ours
        self.constants: dict[fx.Node, Any] = {}  # traced nodes that no image reaches, and what they hold
        self.masks: dict[fx.Node, Tensor] = {}  # traced sums of scores and a mask, which softmax adds
        self.sources: dict[str, str] = {}  # our node → our node that computed its numbers
        self.operands: dict[Operand, str] = {}
        self.floats: list[str] = []
        self.names: set[str] = set()

    def network(
        self, *, size: int, in_chans: int, bridge_blocks: tuple[tuple[str, ...], ...]
    ) -> QuantizedNetwork:
        self.out.lint()
        return QuantizedNetwork(
            graph_module=fx.GraphModule(self.root, self.out),
            size=size,
            in_chans=in_chans,
            sources=self.operands,
            float_functions=tuple(self.floats),
            bridge_blocks=bridge_blocks,
        )

    def run_node(self, n: fx.Node) -> Any:
        """Compute the node on the example, and copy it."""
        if n.op == "call_module":  # the exporter's checks of shapes
            return None
        result = super().run_node(n)
        if n.op == "placeholder":
            self._put(n, self.out.placeholder(IMAGE))
        elif n.op == "output":
            (logits,) = n.all_input_nodes
            self.out.output(self.node(logits))
        elif all(parent in self.constants for parent in n.all_input_nodes) or _is_scalar_of_zeros(n, result):
            self.constants[n] = result
        else:
            self._copy(n)
        return result

    def _copy(self, n: fx.Node) -> None:
        name = function_name(n)
        if name in _NO_WORK or name.startswith("_assert"):
            if n.users:
                self.same(n, n.args[0])
            return
        build = BUILDERS.get(name)
        if build is not None and build(self, n):
            return
        self._call(n, name)

    def _call(self, n: fx.Node, name: str) -> None:
        """A function that is no operator, as it is."""
        args: Any = fx.map_arg(n.args, self.node)
        kwargs: Any = fx.map_arg(n.kwargs, self.node)
        target: Any = n.target
        if name != raw_name(n):
            target = getattr(getattr(aten, name), target._overloadname)
        node = self.out.call_function(target, args, kwargs)
        node.meta = {"module": module_of(n)}
        through = node.all_input_nodes[0] if name in _MOVES and node.all_input_nodes else None
        self._put(n, node, source=through)
        if name not in _MOVES and name not in _BOOKKEEPING:
            self.floats.append(f"{module_of(n) or 'network'}: {name}")
        elif name in {"mul", "add"} and any(
            isinstance(v, Tensor) for v in (self.env.get(a) for a in n.all_input_nodes)
        ):
            of = "" if all(a not in self.constants for a in n.all_input_nodes) else " with a constant"
            self.floats.append(f"{module_of(n) or 'network'}: {name}{of}")

    def operator(
        self, n: fx.Node, build: Callable[..., Operator], inputs: list[Any], **settings: Any
    ) -> fx.Node:
        """Add an operator reading `inputs`, nodes of the traced graph or of ours."""
        module = module_of(n)
        kind = getattr(build, "kind", "operator")
        own = module if kind in {"convolution", "linear"} and module not in self.names else f"{module}/{kind}"
        name, count = own or kind, 1
        while name in self.names:
            count += 1
            name = f"{own}-{count}"
        self.names.add(name)
        made = build(name=name, module=module, **settings)
        operators = self.root.operators
        assert isinstance(operators, nn.ModuleList)
        operators.append(made.eval())
        ours = [x if isinstance(x, fx.Node) and x.graph is self.out else self.node(x) for x in inputs]
        node = self.out.call_module(f"operators.{len(operators) - 1}", tuple(ours))
        node.meta = {"module": module}
        self.sources[node.name] = node.name
        for index, x in enumerate(ours):
            self.operands[name, index] = self.sources[x.name]
        return node

    def put(self, n: fx.Node, node: fx.Node) -> bool:
        """Our node for a node of the traced graph."""
        self._put(n, node)
        return True

    def same(self, n: fx.Node, other: Any) -> bool:
        """A node of the traced graph that holds what another one holds."""
        self.nodes[n] = self.node(other)
        return True

    def _put(self, n: fx.Node, node: fx.Node, source: fx.Node | None = None) -> None:
        self.nodes[n] = node
        self.sources[node.name] = self.sources[source.name] if source is not None else node.name

    def node(self, n: Any) -> fx.Node:
        """Our node for `n`; a constant becomes an attribute of the graph when first read."""
        if n not in self.nodes:
            value = self.constants[n]
            if not isinstance(value, Tensor):
                return value
            key = f"constant_{len(list(self.root.buffers()))}"
            self.root.register_buffer(key, value.detach().clone())
            node = self.out.get_attr(key)
            self._put(n, node)
        return self.nodes[n]

    def constant(self, n: Any) -> Tensor | None:
        """What a node of the traced graph holds when no image reaches it."""
        value = self.constants.get(n) if isinstance(n, fx.Node) else None
        return value if isinstance(value, Tensor) else None


def _is_scalar_of_zeros(n: fx.Node, result: Any) -> bool:
    """Whether `n` only asks a tensor for its type and device, not for its numbers or size."""
    return is_call(n, "new_zeros") and isinstance(result, Tensor) and result.dim() == 0
