"""The operators of a network that can be quantized: with quantizers for what they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pocketvit.quantization.quantizers import Quantizer

__all__ = [
    "Activation",
    "Addition",
    "Convolution",
    "Linear",
    "MatMul",
    "Multiplication",
    "Norm",
    "Operator",
    "Reduction",
    "Softmax",
]


class Operator(nn.Module, ABC):
    """One operator of the network: quantize what is read, compute, quantize the result.

    Attributes:
        name: unique, begins with `module`.
        module: dotted name of the module of the network that the operator belongs to.
        inputs: a quantizer for each tensor that is read, or `None` for float.
        weight: of the shape the operator computes with, or `None`.
        bias: never quantized below 32 bits.
        weight_quantizer: for `weight`.
        output: quantizer of the result; only where an integer kernel has to return integers.
        quantized: whether the quantizers are used; off, the operator computes in float.
        float_reason: why the runtime is to compute it in float although its scope is quantized, or nothing.
        weights_only: whether only its weights are to be quantized.
    """

    kind: ClassVar[str]
    in_partial_scope: bool = True
    """Whether partial scope quantizes it; norms, softmax and activation functions are left to full scope."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        *,
        name: str,
        module: str,
        arity: int = 1,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.name, self.module, self.arity = name, module, arity
        for key, value in (("weight", weight), ("bias", bias)):
            learned = None if value is None else nn.Parameter(value.detach().clone(), requires_grad=False)
            self.register_parameter(key, learned)
        self.inputs = nn.ModuleList([cast(nn.Module, None)] * arity)
        self.weight_quantizer: Quantizer | None = None
        self.output: Quantizer | None = None
        self.quantized = True
        self.float_reason = ""
        self.weights_only = False

    @abstractmethod
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        """The operator itself, in float; `weight` takes the place of the operator's own."""

    def channel_axis(self, x: Tensor) -> int:
        """The dimension of an input that holds channels: 1 of maps, the last of tokens."""
        return 1 if x.dim() == 4 else x.dim() - 1

    def output_axis(self, output: Tensor) -> int:
        """The dimension of the result that the output channels of the weights run along."""
        return self.channel_axis(output)

    @property
    def weight_axis(self) -> int:
        """The dimension of `weight` with one index for each output channel."""
        return 0

    def quantized_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What is computed with, in the present state of the quantizers."""
        if not self.quantized:
            return list(inputs)
        return [x if q is None else q(x) for x, q in zip(inputs, self.input_quantizers, strict=True)]

    def quantized_weight(self) -> Tensor | None:
        """The same for the weights."""
        if self.weight is None or self.weight_quantizer is None or not self.quantized:
            return self.weight
        return self.weight_quantizer(self.weight)

    @property
    def input_quantizers(self) -> list[Quantizer | None]:
        """`inputs` with their type."""
        return [cast("Quantizer | None", q) for q in self.inputs]

    def set_input(self, index: int, quantizer: Quantizer | None) -> None:
        """Quantize input `index` with `quantizer`."""
        self.inputs[index] = cast(nn.Module, quantizer)

    @property
    def has_quantizers(self) -> bool:
        """Whether any of its tensors is quantized when it is switched on."""
        return any(q is not None for q in (*self.input_quantizers, self.weight_quantizer, self.output))

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        result = self.compute(self.quantized_inputs(inputs), self.quantized_weight())
        return self.output(result) if self.output is not None and self.quantized else result

    @override
    def extra_repr(self) -> str:
        return self.name


class Convolution(Operator):
    """A two-dimensional convolution; weight (out, in / groups, kh, kw)."""

    kind = "convolution"

    def __init__(
        self, *, stride: Sequence[int], padding: Any, dilation: Sequence[int], groups: int, **common: Any
    ) -> None:
        super().__init__(**common)
        self.stride, self.padding, self.dilation = tuple(stride), padding, tuple(dilation)
        self.groups = groups

    @property
    def is_depthwise(self) -> bool:
        """Whether every output channel reads one input channel, so that each may have its own scale."""
        assert self.weight is not None
        return self.groups > 1 and self.weight.shape[1] == 1

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        assert weight is not None
        return functional.conv2d(
            inputs[0], weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class Linear(Operator):
    """A product with a matrix of weights: x Wᵀ + b over the last dimension, or W x + b over the one before.

    Attributes:
        left: whether the weights stand on the left, as in W x; their shape is (out, in) either way.
    """

    kind = "linear"

    def __init__(self, *, left: bool = False, **common: Any) -> None:
        super().__init__(**common)
        self.left = left

    @override
    def channel_axis(self, x: Tensor) -> int:
        return x.dim() - (2 if self.left else 1)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        assert weight is not None
        if not self.left:
            return functional.linear(inputs[0], weight, self.bias)
        product = weight @ inputs[0]
        return product if self.bias is None else product + self.bias[:, None]


class MatMul(Operator):
    """The product of two activations, as in attention: (…, n, k) × (…, k, m)."""

    kind = "matmul"

    def __init__(self, **common: Any) -> None:
        super().__init__(arity=2, **common)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        return inputs[0] @ inputs[1]


class Addition(Operator):
    """The sum of two activations, as of a residual branch."""

    kind = "addition"

    def __init__(self, **common: Any) -> None:
        super().__init__(arity=2, **common)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        return inputs[0] + inputs[1]


class Multiplication(Operator):
    """The element-wise product of two activations, as of a gate."""

    kind = "multiplication"

    def __init__(self, **common: Any) -> None:
        super().__init__(arity=2, **common)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        return inputs[0] * inputs[1]


class Function(Operator):
    """An operator of torch with fixed arguments after its one input."""

    def __init__(
        self, *, target: Any, arguments: Sequence[Any], options: dict[str, Any], **common: Any
    ) -> None:
        super().__init__(**common)
        self.target, self.arguments, self.options = target, tuple(arguments), dict(options)

    @property
    def function(self) -> str:
        """Its name in torch: `mean`, `silu`, `gelu` and so on."""
        return str(self.target.overloadpacket.__name__)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        return self.target(inputs[0], *self.arguments, **self.options)


class Reduction(Function):
    """A sum or mean: over tokens, or over the pixels of a map."""

    kind = "reduction"

    @property
    def is_global_mean(self) -> bool:
        """Whether it is the mean over all pixels of a map (B, C, H, W)."""
        if self._pools:
            return list(self.arguments[0]) == [1, 1]
        return self.function == "mean" and set(self.arguments[0] if self.arguments else ()) == {2, 3}

    @property
    def keeps_dimensions(self) -> bool:
        """Whether what it runs over stays, as dimensions of length 1."""
        return self._pools or self.arguments[1:2] == (True,)

    @property
    def _pools(self) -> bool:
        return self.function == "adaptive_avg_pool2d"


class Activation(Function):
    """A function of every element: SiLU, GELU, ReLU, Hardswish, Sigmoid and the like."""

    kind = "activation"
    in_partial_scope = False


class Softmax(Operator):
    """Softmax over `dim` of scores plus a mask.

    Attributes:
        mask: hugely negative where a weight is to be 0, else 0; broadcast to the scores. It is added behind
            the quantizer, whose range would have to reach that far otherwise.
    """

    kind = "softmax"
    in_partial_scope = False

    mask: Tensor | None

    def __init__(self, *, dim: int, mask: Tensor | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.dim = dim
        self.register_buffer("mask", mask)

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        (scores,) = inputs
        return torch.softmax(scores if self.mask is None else scores + self.mask, self.dim)


class Norm(Operator):
    """Layer or group normalisation with its scale (`weight`) and shift (`bias`), never quantized as weights.

    Attributes:
        groups: of channels that share mean and variance; `None` for layer
            normalisation over the last dimension.
        channels: how many there are.
        eps: added to the variance.
    """

    kind = "norm"
    in_partial_scope = False

    def __init__(self, *, groups: int | None, channels: int, eps: float, **common: Any) -> None:
        super().__init__(**common)
        self.groups, self.channels, self.eps = groups, channels, eps

    @override
    def channel_axis(self, x: Tensor) -> int:
        return x.dim() - 1 if self.groups is None else 1

    @override
    def compute(self, inputs: Sequence[Tensor], weight: Tensor | None) -> Tensor:
        if self.groups is None:
            return functional.layer_norm(inputs[0], (self.channels,), weight, self.bias, self.eps)
        return functional.group_norm(inputs[0], self.groups, weight, self.bias, self.eps)

    def set_affine(self, weight: Tensor, bias: Tensor) -> None:
        """Another scale and shift, (channels,) each."""
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
