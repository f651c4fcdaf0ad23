"""Move scales and shifts of channels from where they are made into what reads them; the function stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Convolution, Linear, MatMul, Norm, Operator, Reduction, Softmax

__all__ = [
    "LinearMap",
    "divide_input",
    "node_values",
    "norm_readers",
    "norms_with_linear_readers",
    "only_moves",
    "shift_norm_outputs",
]

LinearMap = Convolution | Linear
"""What can take up a scale and a shift of its input channels in weights and bias."""


def shift_norm_outputs(network: QuantizedNetwork, norm: Norm, scale_ratio: Tensor, shift: Tensor) -> None:
    """Let `norm` return (y − b) / r instead of y, and have all that reads it compute the same as before.

    With γ and β of the norm, W and c of each linear map that reads it::

        γ ← γ / r      β ← (β − b) / r      W ← W · diag(r)      c ← c + W · b

    Source: RepQ-ViT (arXiv 2212.08254), section 3.2. Quantizers of the norm and of its readers are not
    touched: choose them afterwards.

    Args:
        scale_ratio: r, (channels,), not 0.
        shift: b, (channels,).

    Raises:
        ValueError: something that reads the norm cannot take them up; see `norm_readers`.
    """
    readers = norm_readers(network, norm)
    if not readers:
        raise ValueError(f"What reads {norm.name} is not made of linear maps alone.")
    ratio, moved = scale_ratio.detach().double(), shift.detach().double()
    ones = torch.ones(norm.channels, dtype=torch.float64)
    weight = ones if norm.weight is None else norm.weight.double()
    bias = torch.zeros_like(ones) if norm.bias is None else norm.bias.double()
    kind = _dtype(readers[0])
    norm.set_affine((weight / ratio).to(kind), ((bias - moved) / ratio).to(kind))
    for reader in readers:
        matrix = _matrix(reader)
        old = torch.zeros(len(matrix), dtype=torch.float64) if reader.bias is None else reader.bias.double()
        _set(reader, "bias", old + matrix @ moved)
        _scale_input_weights(reader, ratio)


def norms_with_linear_readers(network: QuantizedNetwork) -> dict[Norm, list[LinearMap]]:
    """The norms that `shift_norm_outputs` takes, each with what reads it."""
    flow = _Flow(network)
    found = {norm: flow.readers(norm) for norm in network.operators.values() if isinstance(norm, Norm)}
    return {norm: readers for norm, readers in found.items() if readers}


def norm_readers(network: QuantizedNetwork, norm: Norm) -> list[LinearMap]:
    """The linear maps and 1×1 convolutions that read `norm`, or none if anything else reads it as well.

    Seen through whatever only moves numbers, and through means, of pixels or weighted by a softmax as of the
    tokens in separable self-attention: weights that add up to 1 leave a shift as it is.
    """
    return _Flow(network).readers(norm)


def divide_input(network: QuantizedNetwork, operator: LinearMap, divisor: Tensor) -> bool:
    """Let `operator` read x / α instead of x, channel by channel, and multiply its weights by α.

    If all that `operator` reads comes straight from a linear map that nobody else reads, that map's weights
    and bias are divided. Otherwise the division becomes a function of the graph, computed in float before the
    input is quantized; it joins `network.float_functions`.

    Args:
        divisor: α, (input channels,), not 0.

    Returns:
        Whether the producer took it up, so that it costs nothing.
    """
    if isinstance(operator, Convolution) and operator.groups > 1:
        raise ValueError(f"{operator.name} is grouped; its channels have ranges of their own.")
    node = _node_of(network, operator)
    alpha = divisor.detach().double()
    producer = _absorbing_producer(network, node)
    if producer is None:
        _insert_division(network, node, operator, alpha)
    else:
        _divide_output(producer, alpha)
    _scale_input_weights(operator, alpha)
    return producer is not None


@dataclass(frozen=True)
class _Use:
    """An operator that reads a tensor.

    Attributes:
        node: of the graph.
        index: which of the operator's inputs.
        channels: at each place of that input, the number (from 1) of the channel that it came from.
    """

    node: fx.Node
    operator: Operator
    index: int
    channels: Tensor


class _Flow:
    """Follows the channels of a tensor through the graph, by computing with their numbers in its place."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self.network = network
        self.modules: dict[str, nn.Module] = dict(network.graph_module.named_modules())
        self.values = node_values(network)

    def readers(self, norm: Norm) -> list[LinearMap]:
        node = _node_of(self.network, norm)
        output = self.values[node]
        return self._linear_maps(node, _numbered(output, norm.channel_axis(output)))

    def _linear_maps(self, node: fx.Node, channels: Tensor) -> list[LinearMap]:
        """All readers as linear maps; empty if one of them is none."""
        found: list[LinearMap] = []
        for use in self._uses(node, channels):
            if use is None:
                return []
            maps = self._taken_up(use)
            if not maps:
                return []
            found += [m for m in maps if m not in found]
        return found

    def _taken_up(self, use: _Use) -> list[LinearMap]:
        operator = use.operator
        if isinstance(operator, MatMul) and self._is_mean(use) and _is_along(use.channels, -1):
            mean = self.values[use.node]
            return self._linear_maps(use.node, _numbered(mean, mean.dim() - 1))
        if isinstance(operator, Reduction):  # a mean leaves the numbers of its channels, a sum does not
            return self._linear_maps(use.node, operator.compute([use.channels], None))
        if isinstance(operator, Convolution) and not _is_pointwise(operator):
            return []
        if not isinstance(operator, Convolution | Linear):
            return []
        return [operator] if _is_along(use.channels, operator.channel_axis(use.channels)) else []

    def _is_mean(self, use: _Use) -> bool:
        """Whether a product's other factor holds rows that add up to 1."""
        other = cast(fx.Node, use.node.args[0])
        maker = self.modules.get(str(other.target)) if other.op == "call_module" else None
        last = self.values[other].dim() - 1
        return use.index == 1 and isinstance(maker, Softmax) and maker.dim in {-1, last}

    def _uses(self, node: fx.Node, channels: Tensor) -> Iterator[_Use | None]:
        """Operators that read `node`, directly or moved; `None` for what neither moves nor is an operator."""
        for user in node.users:
            operator = self.modules.get(str(user.target)) if user.op == "call_module" else None
            if isinstance(operator, Operator):
                for index, read in enumerate(user.args):
                    if read is node:
                        yield _Use(user, operator, index, channels)
            elif user.op == "call_function" and only_moves(user):
                yield from self._uses(user, self._moved(user, node, channels))
            else:
                yield None

    def _moved(self, user: fx.Node, node: fx.Node, channels: Tensor) -> Tensor:
        args = fx.map_arg(user.args, lambda n: channels if n is node else self.values[n])
        kwargs = fx.map_arg(user.kwargs, lambda n: self.values[n])
        return cast(Any, user.target)(*cast(Any, args), **cast(Any, kwargs))


def only_moves(node: fx.Node) -> bool:
    """Whether a function of the graph returns every number of one tensor as it was, in other places."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", "") in _MOVES


_MOVES = {
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "unsqueeze", "squeeze", "slice",
    "select", "expand", "repeat", "contiguous", "clone", "alias", "t",
}  # fmt: skip
"""Functions that return one tensor and every number of it as it was."""


def zero_image(network: QuantizedNetwork) -> Tensor:
    """Two images of zeros, in the type of the network's weights."""
    kind = next(network.parameters()).dtype
    return torch.zeros(2, network.in_chans, network.size, network.size, dtype=kind)


def node_values(network: QuantizedNetwork) -> dict[fx.Node, Any]:
    """What every node of the graph returns in float for `zero_image`: shapes, and where there are tensors."""
    interpreter = fx.Interpreter(network.graph_module, garbage_collect_values=False)
    with torch.no_grad(), network.only([]):
        interpreter.run(zero_image(network))
    return interpreter.env


def _numbered(x: Tensor, axis: int) -> Tensor:
    """The number of the channel at every place of `x`, from 1: zeros that are padded in stand out."""
    shape = [-1 if i == axis else 1 for i in range(x.dim())]
    return torch.arange(1.0, x.shape[axis] + 1).reshape(shape).expand(x.shape)


def _is_along(channels: Tensor, axis: int) -> bool:
    return torch.equal(channels, _numbered(channels, axis % channels.dim()))


def _is_pointwise(convolution: Convolution) -> bool:
    assert convolution.weight is not None
    padded = convolution.padding not in {"valid", (0, 0), (0,)} and convolution.padding != "same"
    return convolution.groups == 1 and convolution.weight.shape[2:].numel() == 1 and not padded


def _node_of(network: QuantizedNetwork, operator: Operator) -> fx.Node:
    modules: dict[str, nn.Module] = dict(network.graph_module.named_modules())
    return next(
        node
        for node in network.graph_module.graph.nodes
        if node.op == "call_module" and modules[str(node.target)] is operator
    )


def _absorbing_producer(network: QuantizedNetwork, node: fx.Node) -> LinearMap | None:
    """The linear map that returns just what `node` reads, if nobody else reads it."""
    read = cast(fx.Node, node.args[0])
    made = network.graph_module.get_submodule(str(read.target)) if read.op == "call_module" else None
    if not isinstance(made, Convolution | Linear) or len(read.users) > 1:
        return None
    # W x along tokens and x Wᵀ along the last dimension have their channels in different places
    reader = network.graph_module.get_submodule(str(node.target))
    same = isinstance(reader, Convolution) == isinstance(made, Convolution)
    alike = same and getattr(reader, "left", False) == getattr(made, "left", False)
    return made if alike else None


def _divide_output(producer: LinearMap, alpha: Tensor) -> None:
    assert producer.weight is not None
    _set(producer, "weight", producer.weight.double() / _rows(alpha, producer.weight))
    if producer.bias is not None:
        _set(producer, "bias", producer.bias.double() / alpha)


def _insert_division(network: QuantizedNetwork, node: fx.Node, operator: LinearMap, alpha: Tensor) -> None:
    module = network.graph_module
    read = cast(fx.Node, node.args[0])
    key = f"divisor_{sum(name.startswith('divisor_') for name, _ in module.named_buffers())}"
    behind = 2 if isinstance(operator, Convolution) else int(operator.left)
    factor = (1 / alpha).to(_dtype(operator)).reshape(-1, *[1] * behind)
    module.register_buffer(key, factor)
    with module.graph.inserting_before(node):
        constant = module.graph.get_attr(key)
        product = module.graph.call_function(torch.ops.aten.mul.Tensor, (read, constant))
    constant.meta = product.meta = {"module": operator.module}
    node.replace_input_with(read, product)
    module.graph.lint()
    module.recompile()
    network.sources[operator.name, 0] = product.name
    network.float_functions = (*network.float_functions, f"{operator.module}: mul with a constant")


def _scale_input_weights(reader: LinearMap, ratio: Tensor) -> None:
    assert reader.weight is not None
    shape = [1, -1, *[1] * (reader.weight.dim() - 2)]
    _set(reader, "weight", reader.weight.double() * ratio.reshape(shape))


def _matrix(reader: LinearMap) -> Tensor:
    """The weights as (output, input) in double precision."""
    assert reader.weight is not None
    return reader.weight.double().flatten(1)


def _rows(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape([-1, *[1] * (weight.dim() - 1)])


def _set(operator: Operator, name: str, value: Tensor) -> None:
    parameter = nn.Parameter(value.to(_dtype(operator)), requires_grad=False)
    setattr(operator, name, parameter)


def _dtype(operator: Operator) -> torch.dtype:
    assert operator.weight is not None
    return operator.weight.dtype
