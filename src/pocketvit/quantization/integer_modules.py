"""What the operators of a lowered network are: modules that torch traces into graphs of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pocketvit.quantization.biases import bias_unit
from pocketvit.quantization.gated import GatedActivation
from pocketvit.quantization.integer_numbers import Grid, Rounding, StoredFloats, StoredIntegers
from pocketvit.quantization.operators import Convolution, Linear, Norm, Operator, Reduction
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer

__all__ = [
    "Bounded",
    "GroupNormInDouble",
    "IntegerConvolution",
    "IntegerGate",
    "IntegerLinear",
    "IntegerMean",
    "IntegerOperator",
    "IntegerProduct",
    "MapNorm",
    "RoundedInFloat",
    "SoftmaxInFloat",
    "StoredLinear",
]


class IntegerOperator(nn.Module):
    """An operator between integers."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator
        self.read = nn.ModuleList(_activation(quantizer) for quantizer in operator.input_quantizers)
        self.write = _activation(operator.output)

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the operator computes."""
        return self.write(self.compute([grid(x) for x, grid in zip(inputs, self.read, strict=True)]))

    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        """The operator itself."""
        return self.operator.compute(inputs, self.operator.weight)


class IntegerProduct(IntegerOperator):
    """A product with weights that are integers.

    Args:
        dims: dimensions of the weights.
    """

    bias: nn.Module | None

    def __init__(self, operator: Operator, *, dims: int) -> None:
        super().__init__(operator)
        self.weight, self.bias = _parameters(operator, dims=dims)

    def take_zero_point(self) -> None:
        """Take what the zero point of the input adds to the result into the bias, if 32 bits hold that.

        They do but for a channel whose weights are nearly 0 beside its bias.
        """
        unit = bias_unit(self.operator)
        (grid,) = (part for part in self.read.modules() if isinstance(part, Grid))
        assert unit is not None
        assert isinstance(self.weight, StoredIntegers)
        added = int(grid.zero_point) * self.weight.integers.long().flatten(1).sum(dim=1)
        if self.bias is not None:
            assert isinstance(self.bias, StoredIntegers)
            added = added - self.bias.integers
        if int(grid.zero_point) and int(added.abs().max()) <= torch.iinfo(torch.int32).max:
            self.bias = StoredIntegers(-added.to(torch.int32), unit)
            grid.from_zero = True


class IntegerConvolution(IntegerProduct):
    """A convolution."""

    def __init__(self, operator: Convolution) -> None:
        super().__init__(operator, dims=4)

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        o = cast(Convolution, self.operator)
        bias = None if self.bias is None else self.bias()
        return functional.conv2d(inputs[0], self.weight(), bias, o.stride, o.padding, o.dilation, o.groups)


class IntegerLinear(IntegerProduct):
    """x Wᵀ as a product of two matrices, W x as a 1×1 convolution: integer kernels exist for these.

    Args:
        apart: whether the matrix is rounded apart from what it comes from. OpenVINO then does that four times
            as fast with a dimension before its rows.
    """

    def __init__(self, operator: Linear, *, apart: bool) -> None:
        super().__init__(operator, dims=4 if operator.left else 2)
        if apart and not operator.left:
            self.read = nn.ModuleList([_WithLeadingDimension(self.read[0])])

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if cast(Linear, self.operator).left:
            return super().forward(x.flatten(0, -3).unsqueeze(-2)).reshape(*x.shape[:-2], -1, x.shape[-1])
        return super().forward(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        bias = None if self.bias is None else self.bias()
        if cast(Linear, self.operator).left:
            return functional.conv2d(inputs[0], self.weight(), bias)
        return functional.linear(inputs[0], self.weight(), bias)


class _WithLeadingDimension(nn.Module):
    """What maps a matrix to another, as one of a single matrix among others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Shape of `x`."""
        return self.inner(x.unsqueeze(0)).squeeze(0)


class StoredLinear(IntegerOperator):
    """A product in float with weights that are stored as integers.

    Operators of floats multiply these by their scales: constants, which a runtime computes when it opens the
    file. DequantizeLinear ONNX Runtime 1.31 would compute for every image, or merge into MatMulNBits, which
    rounds x to 8 bits by itself.
    """

    def __init__(self, operator: Linear) -> None:
        super().__init__(operator)
        self.weight, _ = _parameters(operator, dims=2)

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        stored = cast(StoredIntegers, self.weight)
        return self.operator.compute(inputs, stored.integers.float() * stored.scale.unsqueeze(-1))


class Bounded(nn.Module):
    """An operator with bounds behind it that no float reaches.

    They keep OpenVINO 2026.4 from moving the scales of output channels through a reshape behind: where that
    splits or joins channels it refuses the file, or scales all channels as the first.
    """

    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the operator computes."""
        return _bounded(self.lowered(*inputs))


def _bounded(x: Tensor) -> Tensor:
    return x.clamp(-1e30, 1e30)


class IntegerGate(IntegerOperator):
    """x σ(a x) with the sigmoid in integers.

    x and a x are the same integers, read on two scales; so they are rounded here, not where they come from.
    """

    def __init__(self, operator: GatedActivation) -> None:
        super().__init__(operator)
        self.slope = operator.slope
        self.gate = _activation(operator.gate)

    def take_rounding(self, before: nn.Module) -> None:
        """Round what was read instead of `before`, which computes it."""
        if self.slope != 1 and isinstance(before, IntegerOperator) and isinstance(self.read[0], nn.Identity):
            self.read[0], before.write = before.write, self.read[0]

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        read = self.read[0]
        x, scaled = read.scaled(x, self.slope) if isinstance(read, Grid) else (x, self.slope * x)
        return self.write(x * self.gate(scaled.sigmoid()))


class IntegerMean(IntegerOperator):
    """The mean over all pixels, by the operator of ONNX that has an integer kernel."""

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        (x,) = inputs
        shape = (*x.shape[:2], 1, 1)
        mean = torch.onnx.ops.symbolic("GlobalAveragePool", (x,), dtype=torch.float32, shape=shape)
        return mean if cast(Reduction, self.operator).keeps_dimensions else mean.flatten(1)


class RoundedInFloat(IntegerOperator):
    """An operator whose inputs are rounded to the same numbers by arithmetic on floats.

    Runtimes merge the pairs around any operator; but ONNX Runtime's integer softmax overflows where results
    are small, as they are with many tokens, and a mean would be rounded itself. OpenVINO computes in float
    whatever has no weights: its release 2026.4 gets bounds within integers wrong there, before and behind
    them, and rounds less exactly on the way to them than arithmetic does. But norms sum integers, which is
    exact, and sums and products of 8 bits read those that a convolution reads too.
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator)
        self.read = nn.ModuleList(_rounding(quantizer) for quantizer in operator.input_quantizers)


class SoftmaxInFloat(IntegerOperator):
    """A softmax of what a convolution returns in integers, which itself is not quantized.

    Where another convolution reads the weights, ONNX Runtime would merge all between the two into its integer
    softmax, which is several steps off. It does not see through bounds, which no score reaches.
    """

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        (scores,) = inputs
        return super().compute([_bounded(scores)])


class MapNorm(IntegerOperator):
    """Group normalisation of one group, as the layer normalisation of a map that it is.

    The usual way, an instance normalisation of one channel of all numbers, has OpenVINO bring the map into
    another layout and back, which takes several times as long as the norm.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, operator: Norm) -> None:
        super().__init__(operator)
        assert operator.weight is not None
        assert operator.bias is not None
        self.register_buffer("scale", operator.weight.detach().reshape(-1, 1, 1).clone())
        self.register_buffer("shift", operator.bias.detach().reshape(-1, 1, 1).clone())

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        (x,) = inputs
        return torch.onnx.ops.symbolic(
            "LayerNormalization",
            (x, self.scale, self.shift),
            {"axis": 1, "epsilon": cast(Norm, self.operator).eps},
            dtype=torch.float32,
            shape=x.shape,
        )


class GroupNormInDouble(IntegerOperator):
    """Group normalisation as a multiplication and an addition of what sums in double precision say.

    ONNX Runtime 1.31 sums up a group in single precision, one number after the other: with 65,536 of them
    results are off by up to 1e-5, twenty times as much as torch's. Of integers that moves all pixels of a
    channel that have the same, and where these lie between two steps of what is read next, all go one way.
    """

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        (x,) = inputs
        norm = cast(Norm, self.operator)
        groups = cast(int, norm.groups)
        group = x.double().flatten(1).unflatten(1, (groups, -1))
        mean = group.mean(dim=2, keepdim=True)
        variance = (group * group).mean(dim=2, keepdim=True) - mean * mean
        scale = (variance + norm.eps).rsqrt()  # (B, groups, 1)
        shift = -mean * scale
        if norm.weight is not None:
            scale, shift = (each * norm.weight.double().reshape(groups, -1) for each in (scale, shift))
        if norm.bias is not None:
            shift = shift + norm.bias.double().reshape(groups, -1)
        return x * _over_pixels(scale, x) + _over_pixels(shift, x)


def _over_pixels(factor: Tensor, x: Tensor) -> Tensor:
    """Factors (B, groups, channels of a group or 1) in shape and type to multiply `x` by."""
    return (
        factor.float()
        .expand(-1, -1, x.shape[1] // factor.shape[1])
        .flatten(1)
        .reshape(-1, x.shape[1], *[1] * (x.dim() - 2))
    )


def _rounding(quantizer: Quantizer | None) -> nn.Module:
    return nn.Identity() if quantizer is None else Rounding(cast(UniformQuantizer, quantizer))


def _activation(quantizer: Quantizer | None) -> nn.Module:
    return nn.Identity() if quantizer is None else Grid(cast(UniformQuantizer, quantizer))


def _parameters(operator: Operator, *, dims: int) -> tuple[nn.Module, nn.Module | None]:
    """Weights, of so many dimensions, and bias as integers; the bias in the sums' own unit, s_x s_w."""
    weight, bias, grid = operator.weight, operator.bias, operator.weight_quantizer
    assert weight is not None
    shape = (*weight.shape, *[1] * (dims - weight.dim()))
    weights: nn.Module = StoredFloats(weight.reshape(shape))
    if isinstance(grid, UniformQuantizer):
        scale = grid.scale if grid.axis is None else grid.scale.expand(len(weight))
        weights = StoredIntegers(grid.integers(weight).to(torch.int8).reshape(shape), scale)
    if bias is None:
        return weights, None
    unit = bias_unit(operator)
    if unit is None:
        return weights, StoredFloats(bias)
    return weights, StoredIntegers((bias.double() / unit).round().to(torch.int32), unit)
