"""From a network of modules to the graph of operators that quantization works on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from pocketvit.backbones.base import Backbone
from pocketvit.core.errors import ExportError
from pocketvit.quantization.network import IMAGE, Operand, QuantizedNetwork
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
    Softmax,
)
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
_ACTIVATIONS = {
    "silu", "gelu", "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh",
    "leaky_relu", "elu",
}  # fmt: skip
_REDUCTIONS = {"sum", "mean", "avg_pool2d", "adaptive_avg_pool2d"}


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
    graph = _Rebuilt(trace(model, size=size, in_chans=in_chans))
    graph.run(torch.zeros(2, in_chans, size, size))
    return graph.network(size, model.bridge_blocks if isinstance(model, Backbone) else ())


class _Rebuilt(fx.Interpreter):
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

    def network(self, size: int, bridge_blocks: tuple[tuple[str, ...], ...]) -> QuantizedNetwork:
        self.out.lint()
        return QuantizedNetwork(
            graph_module=fx.GraphModule(self.root, self.out),
            size=size,
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
        name = _name(n)
        if name in _NO_WORK or name.startswith("_assert"):
            if n.users:
                self.same(n, n.args[0])
            return
        build = _BUILDERS.get(name)
        if build is not None and build(self, n):
            return
        self._call(n, name)

    def _call(self, n: fx.Node, name: str) -> None:
        """A function that is no operator, as it is."""
        args: Any = fx.map_arg(n.args, self.node)
        kwargs: Any = fx.map_arg(n.kwargs, self.node)
        target: Any = n.target
        if name != _raw_name(n):
            target = getattr(getattr(aten, name), target._overloadname)
        node = self.out.call_function(target, args, kwargs)
        node.meta = {"module": _module(n)}
        through = node.all_input_nodes[0] if name in _MOVES and node.all_input_nodes else None
        self._put(n, node, source=through)
        if name not in _MOVES and name not in _BOOKKEEPING:
            self.floats.append(f"{_module(n) or 'network'}: {name}")
        elif name in {"mul", "add"} and any(
            isinstance(v, Tensor) for v in (self.env.get(a) for a in n.all_input_nodes)
        ):
            of = "" if all(a not in self.constants for a in n.all_input_nodes) else " with a constant"
            self.floats.append(f"{_module(n) or 'network'}: {name}{of}")

    def operator(
        self, n: fx.Node, build: Callable[..., Operator], inputs: list[Any], **settings: Any
    ) -> fx.Node:
        """Add an operator reading `inputs`, nodes of the traced graph or of ours."""
        module = _module(n)
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
    return _is_call(n, "new_zeros") and isinstance(result, Tensor) and result.dim() == 0


def _raw_name(n: fx.Node) -> str:
    packet = getattr(n.target, "overloadpacket", n.target)
    return getattr(packet, "__name__", str(packet))


def _name(n: fx.Node) -> str:
    """The function's name; writing in place makes no difference where nobody else reads the input."""
    name = _raw_name(n)
    if name.endswith("_") and not name.endswith("__"):
        (read, *_) = n.all_input_nodes
        if len(read.users) > 1:
            raise ExportError(f"{_module(n)} changes a tensor that others read: {name}.")
        return name[:-1]
    return name


def _module(n: fx.Node) -> str:
    stack = n.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _argument(n: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(n.args) > position:
        return n.args[position]
    return n.kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _convolution(graph: _Rebuilt, n: fx.Node) -> bool:
    weight = graph.constant(n.args[1])
    if weight is None or weight.dim() != 4:
        return False
    padding = _argument(n, 4, "padding", (0, 0))
    node = graph.operator(
        n,
        Convolution,
        [n.args[0]],
        weight=weight,
        bias=graph.constant(_argument(n, 2, "bias", None)),
        stride=_pair(_argument(n, 3, "stride", (1, 1))),
        padding=padding if isinstance(padding, str) else _pair(padding),
        dilation=_pair(_argument(n, 5, "dilation", (1, 1))),
        groups=_argument(n, 6, "groups", 1),
    )
    return graph.put(n, node)


def _linear(graph: _Rebuilt, n: fx.Node) -> bool:
    weight = graph.constant(n.args[1])
    if weight is None:
        return False
    bias = graph.constant(_argument(n, 2, "bias", None))
    return graph.put(n, graph.operator(n, Linear, [n.args[0]], weight=weight, bias=bias))


def _matmul(graph: _Rebuilt, n: fx.Node) -> bool:
    first, second = (graph.constant(part) for part in n.args[:2])
    if first is not None and first.dim() == 2:
        return graph.put(n, graph.operator(n, Linear, [n.args[1]], weight=first, left=True))
    if second is not None and second.dim() == 2:
        return graph.put(n, graph.operator(n, Linear, [n.args[0]], weight=second.mT))
    if first is not None or second is not None:
        return False
    return graph.put(n, graph.operator(n, MatMul, list(n.args[:2])))


def _addition(graph: _Rebuilt, n: fx.Node) -> bool:
    if _of_two_activations(graph, n):
        return graph.put(n, graph.operator(n, Addition, list(n.args[:2])))
    zero = graph.constant(n.args[1])
    if zero is not None and zero.dim() == 0 and not zero.any():  # what is left of a merged classifier
        return graph.same(n, n.args[0])
    return _absorb_mask(graph, n) or _absorb_bias(graph, n)


def _absorb_mask(graph: _Rebuilt, n: fx.Node) -> bool:
    """A constant that hides scores from the softmax that reads them is the softmax's."""
    scores, mask = n.args[0], graph.constant(n.args[1])
    if not isinstance(scores, fx.Node) or mask is None or not _hides(mask) or n.kwargs:
        return False
    if graph.env[scores].dim() < mask.dim():  # softmax would count its dimension differently
        return False
    if not all(_name(reader) == "softmax" for reader in n.users):
        return False
    graph.masks[n] = mask
    return graph.same(n, scores)


def _hides(mask: Tensor) -> bool:
    """Whether what it is added to disappears in places: exp(-100) is no weight any more."""
    return mask.is_floating_point() and bool((mask <= -100).any())


def _absorb_bias(graph: _Rebuilt, n: fx.Node) -> bool:
    """A constant for each output channel that is added to a product with weights is its bias."""
    product = n.args[0]
    constant = graph.constant(n.args[1]) if len(n.args) > 1 else None
    if not isinstance(product, fx.Node) or constant is None or len(product.users) > 1 or n.kwargs:
        return False
    node = graph.nodes[product]
    made = graph.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(made, Linear) or made.bias is not None:
        return False
    wanted = (-1, 1) if made.left else (-1,)
    shape = tuple(constant.shape)
    channels = len(made.weight) if made.weight is not None else 0
    if constant.numel() != channels or shape[-len(wanted) :] != (channels, *wanted[1:]):
        return False
    made.bias = nn.Parameter(constant.detach().flatten().clone(), requires_grad=False)
    return graph.put(n, node)


def _multiplication(graph: _Rebuilt, n: fx.Node) -> bool:
    """The product of two activations; of a normalisation by length only the square is an operator.

    x / √Σx² has x² and 1 / √Σx² in it, which reach over more powers of ten than 8 bits do.
    """
    if not _of_two_activations(graph, n) or any(_is_call(part, "rsqrt") for part in n.args[:2]):
        return False
    node = graph.operator(n, Multiplication, list(n.args[:2]))
    if _is_square(n):
        square = graph.root.get_submodule(str(node.target))
        assert isinstance(square, Multiplication)
        square.in_partial_scope = False
    return graph.put(n, node)


def _is_call(n: Any, name: str) -> bool:
    return isinstance(n, fx.Node) and n.op == "call_function" and _raw_name(n) == name


def _is_square(n: Any) -> bool:
    return _is_call(n, "mul") and n.args[0] is n.args[1]


def _of_two_activations(graph: _Rebuilt, n: fx.Node) -> bool:
    parts = n.args[:2]
    return (
        len(parts) == 2
        and not n.kwargs
        and all(
            isinstance(part, fx.Node) and part not in graph.constants and isinstance(graph.env[part], Tensor)
            for part in parts
        )
    )


def _softmax(graph: _Rebuilt, n: fx.Node) -> bool:
    read = cast(fx.Node, n.args[0])
    return graph.put(n, graph.operator(n, Softmax, [read], dim=n.args[1], mask=graph.masks.get(read)))


def _layer_norm(graph: _Rebuilt, n: fx.Node) -> bool:
    shape: Any = n.args[1]
    weight, bias = (graph.constant(_argument(n, i, name, None)) for i, name in ((2, "weight"), (3, "bias")))
    if len(shape) != 1:
        return False
    node = graph.operator(
        n,
        Norm,
        [n.args[0]],
        groups=None,
        channels=shape[0],
        eps=_argument(n, 4, "eps", 1e-5),
        weight=weight,
        bias=bias,
    )
    return graph.put(n, node)


def _group_norm(graph: _Rebuilt, n: fx.Node) -> bool:
    weight, bias = (graph.constant(_argument(n, i, name, None)) for i, name in ((2, "weight"), (3, "bias")))
    channels = graph.env[n.args[0]].shape[1]  # pyright: ignore
    node = graph.operator(
        n,
        Norm,
        [n.args[0]],
        groups=n.args[1],
        channels=channels,
        eps=_argument(n, 4, "eps", 1e-5),
        weight=weight,
        bias=bias,
    )
    return graph.put(n, node)


def _function(build: type[Activation | Reduction]) -> Callable[[_Rebuilt, fx.Node], bool]:
    def add(graph: _Rebuilt, n: fx.Node) -> bool:
        read, arguments = graph.env[n.args[0]], n.args[1:]  # pyright: ignore
        if not isinstance(read, Tensor) or any(isinstance(a, fx.Node) for a in arguments):
            return False
        if build is Reduction and _is_square(n.args[0]):
            return False  # of a normalisation, see `_multiplication`
        if _name(n) in {"sum", "mean"} and arguments and isinstance(arguments[0], Sequence):
            counted = [int(d) % read.dim() for d in cast("Sequence[int]", arguments[0])]  # none from the end
            arguments = (counted, *arguments[1:])
        overload: Any = n.target
        target = getattr(getattr(aten, _name(n)), overload._overloadname)
        node = graph.operator(
            n, build, [n.args[0]], target=target, arguments=arguments, options=dict(n.kwargs)
        )
        return graph.put(n, node)

    return add


def _attention(graph: _Rebuilt, n: fx.Node) -> bool:
    """Softmax(q kᵀ · scale + mask) v, opened."""
    query, key, value = n.args[:3]
    mask = _argument(n, 3, "attn_mask", None)
    hidden = _as_numbers(graph.constant(mask))
    if _argument(n, 5, "is_causal", False) or (hidden is None and _is_boolean(graph, mask)):
        return False
    shape = graph.env[query].shape  # pyright: ignore
    scale = n.kwargs.get("scale") or shape[-1] ** -0.5
    transposed = graph.out.call_function(aten.transpose.int, (graph.node(key), -2, -1))
    graph.sources[transposed.name] = graph.sources[graph.node(key).name]
    scaled = graph.out.call_function(aten.mul.Tensor, (graph.node(query), scale))
    graph.sources[scaled.name] = scaled.name
    scores = graph.operator(n, MatMul, [scaled, transposed])
    if hidden is None or not _hides(hidden):
        hidden = None
        if mask is not None and not _is_boolean(graph, mask):
            scores = graph.out.call_function(aten.add.Tensor, (scores, graph.node(mask)))
            graph.sources[scores.name] = scores.name
    weights = graph.operator(n, Softmax, [scores], dim=-1, mask=hidden)
    return graph.put(n, graph.operator(n, MatMul, [weights, value]))


def _as_numbers(mask: Tensor | None) -> Tensor | None:
    """A mask that says which scores count, as numbers to add to them."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min / 2)


def _is_boolean(graph: _Rebuilt, mask: Any) -> bool:
    found = graph.env.get(mask)
    return isinstance(found, Tensor) and found.dtype == torch.bool


_BUILDERS: dict[str, Callable[[_Rebuilt, fx.Node], bool]] = (
    {
        "conv2d": _convolution,
        "linear": _linear,
        "matmul": _matmul,
        "bmm": _matmul,
        "add": _addition,
        "mul": _multiplication,
        "softmax": _softmax,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
        "scaled_dot_product_attention": _attention,
    }
    | dict.fromkeys(_ACTIVATIONS, _function(Activation))
    | dict.fromkeys(_REDUCTIONS, _function(Reduction))
)
