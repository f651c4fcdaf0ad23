"""One operator of ours for one function of the traced network, or none where it does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from pocketvit.core.errors import ExportError
from pocketvit.quantization.operators import (
    Activation,
    Addition,
    Convolution,
    Linear,
    MatMul,
    Multiplication,
    Norm,
    Reduction,
    Softmax,
)

if TYPE_CHECKING:
    from pocketvit.quantization.capture import Rebuilt

__all__ = ["BUILDERS", "function_name", "is_call", "module_of", "raw_name"]

aten = torch.ops.aten

_ACTIVATIONS = {
    "silu", "gelu", "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh",
    "leaky_relu", "elu",
}  # fmt: skip
_REDUCTIONS = {"sum", "mean", "avg_pool2d", "adaptive_avg_pool2d"}


def raw_name(n: fx.Node) -> str:
    """The function's own name in torch."""
    packet = getattr(n.target, "overloadpacket", n.target)
    return getattr(packet, "__name__", str(packet))


def function_name(n: fx.Node) -> str:
    """The function's name; writing in place makes no difference where nobody else reads the input."""
    name = raw_name(n)
    if name.endswith("_") and not name.endswith("__"):
        (read, *_) = n.all_input_nodes
        if len(read.users) > 1:
            raise ExportError(f"{module_of(n)} changes a tensor that others read: {name}.")
        return name[:-1]
    return name


def module_of(n: fx.Node) -> str:
    """Dotted name of the innermost module that calls it, or nothing."""
    stack = n.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _argument(n: fx.Node, position: int, name: str, default: Any) -> Any:
    if len(n.args) > position:
        return n.args[position]
    return n.kwargs.get(name, default)


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _convolution(graph: Rebuilt, n: fx.Node) -> bool:
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


def _linear(graph: Rebuilt, n: fx.Node) -> bool:
    weight = graph.constant(n.args[1])
    if weight is None:
        return False
    bias = graph.constant(_argument(n, 2, "bias", None))
    return graph.put(n, graph.operator(n, Linear, [n.args[0]], weight=weight, bias=bias))


def _matmul(graph: Rebuilt, n: fx.Node) -> bool:
    first, second = (graph.constant(part) for part in n.args[:2])
    if first is not None and first.dim() == 2:
        return graph.put(n, graph.operator(n, Linear, [n.args[1]], weight=first, left=True))
    if second is not None and second.dim() == 2:
        return graph.put(n, graph.operator(n, Linear, [n.args[0]], weight=second.mT))
    if first is not None or second is not None:
        return False
    return graph.put(n, graph.operator(n, MatMul, list(n.args[:2])))


def _addition(graph: Rebuilt, n: fx.Node) -> bool:
    if _of_two_activations(graph, n):
        return graph.put(n, graph.operator(n, Addition, list(n.args[:2])))
    zero = graph.constant(n.args[1])
    if zero is not None and zero.dim() == 0 and not zero.any():  # what is left of a merged classifier
        return graph.same(n, n.args[0])
    return _absorb_mask(graph, n) or _absorb_bias(graph, n)


def _absorb_mask(graph: Rebuilt, n: fx.Node) -> bool:
    """A constant that hides scores from the softmax that reads them is the softmax's."""
    scores, mask = n.args[0], graph.constant(n.args[1])
    if not isinstance(scores, fx.Node) or mask is None or not _hides(mask) or n.kwargs:
        return False
    if graph.env[scores].dim() < mask.dim():  # softmax would count its dimension differently
        return False
    if not all(function_name(reader) == "softmax" for reader in n.users):
        return False
    graph.masks[n] = mask
    return graph.same(n, scores)


def _hides(mask: Tensor) -> bool:
    """Whether what it is added to disappears in places: exp(-100) is no weight any more."""
    return mask.is_floating_point() and bool((mask <= -100).any())


def _absorb_bias(graph: Rebuilt, n: fx.Node) -> bool:
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


def _multiplication(graph: Rebuilt, n: fx.Node) -> bool:
    """The product of two activations; of a normalisation by length only the square is an operator.

    x / √Σx² has x² and 1 / √Σx² in it, which reach over more powers of ten than 8 bits do.
    """
    if not _of_two_activations(graph, n) or any(is_call(part, "rsqrt") for part in n.args[:2]):
        return False
    node = graph.operator(n, Multiplication, list(n.args[:2]))
    if _is_square(n):
        square = graph.root.get_submodule(str(node.target))
        assert isinstance(square, Multiplication)
        square.in_partial_scope = False
    return graph.put(n, node)


def is_call(n: Any, name: str) -> bool:
    """Whether `n` calls the function of this name in torch."""
    return isinstance(n, fx.Node) and n.op == "call_function" and raw_name(n) == name


def _is_square(n: Any) -> bool:
    return is_call(n, "mul") and n.args[0] is n.args[1]


def _of_two_activations(graph: Rebuilt, n: fx.Node) -> bool:
    parts = n.args[:2]
    return (
        len(parts) == 2
        and not n.kwargs
        and all(
            isinstance(part, fx.Node) and part not in graph.constants and isinstance(graph.env[part], Tensor)
            for part in parts
        )
    )


def _softmax(graph: Rebuilt, n: fx.Node) -> bool:
    read = cast(fx.Node, n.args[0])
    return graph.put(n, graph.operator(n, Softmax, [read], dim=n.args[1], mask=graph.masks.get(read)))


def _layer_norm(graph: Rebuilt, n: fx.Node) -> bool:
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


def _group_norm(graph: Rebuilt, n: fx.Node) -> bool:
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


def _function(build: type[Activation | Reduction]) -> Callable[[Rebuilt, fx.Node], bool]:
    def add(graph: Rebuilt, n: fx.Node) -> bool:
        read, arguments = graph.env[n.args[0]], n.args[1:]  # pyright: ignore
        if not isinstance(read, Tensor) or any(isinstance(a, fx.Node) for a in arguments):
            return False
        if build is Reduction and _is_square(n.args[0]):
            return False  # of a normalisation, see `_multiplication`
        if function_name(n) in {"sum", "mean"} and arguments and isinstance(arguments[0], Sequence):
            counted = [int(d) % read.dim() for d in cast("Sequence[int]", arguments[0])]  # none from the end
            arguments = (counted, *arguments[1:])
        overload: Any = n.target
        target = getattr(getattr(aten, function_name(n)), overload._overloadname)
        node = graph.operator(
            n, build, [n.args[0]], target=target, arguments=arguments, options=dict(n.kwargs)
        )
        return graph.put(n, node)

    return add


def _attention(graph: Rebuilt, n: fx.Node) -> bool:
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


def _is_boolean(graph: Rebuilt, mask: Any) -> bool:
    found = graph.env.get(mask)
    return isinstance(found, Tensor) and found.dtype == torch.bool


BUILDERS: dict[str, Callable[[Rebuilt, fx.Node], bool]] = (
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
