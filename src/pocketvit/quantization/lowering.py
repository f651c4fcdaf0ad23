"""From a calibrated network to one whose export is a graph that integer kernels execute.

Every quantizer becomes ONNX's QuantizeLinear and DequantizeLinear; weights and biases become the integers
that they are. Runtimes merge an operator with the pairs around it into one integer kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from typing_extensions import override

from pocketvit.core.errors import ExportError
from pocketvit.quantization.biases import bias_unit
from pocketvit.quantization.gated import GatedActivation
from pocketvit.quantization.kernels import writes_integers
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import (
    Activation,
    Addition,
    Convolution,
    Linear,
    Multiplication,
    Norm,
    Operator,
    Reduction,
    Softmax,
)
from pocketvit.quantization.qdq import dequantize, quantize, round_to_grid
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer

__all__ = ["check_integer", "lower"]

_SHAPE_KEEPING = (Activation, Addition, Convolution, Multiplication)
"""Operators that are written without a reshape before them."""


def lower(network: QuantizedNetwork) -> nn.Module:
    """A module that torch.onnx.export writes as a graph of integers; it computes nothing in torch.

    Operators keep their place, `operators.0`, `operators.1` … of the result in the order of
    `network.operators`.

    Raises:
        ExportError: a quantizer that no integer kernel can execute, with its operator's name.
    """
    check_integer(network)
    graph_module = copy.deepcopy(network.graph_module)
    modules = dict(network.graph_module.named_modules())
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            operator = cast(Operator, graph_module.get_submodule(str(node.target)))
            made = _lowered(operator, network)
            _place_clips(made, operator, network)
            in_integers = operator.weight_quantizer is not None and not operator.weights_only
            if network.runtime == "openvino" and in_integers:
                readers = [modules.get(str(reader.target)) for reader in node.users]
                if not all(isinstance(reader, _SHAPE_KEEPING) for reader in readers):
                    made = _Bounded(made)
            if isinstance(made, _IntegerGate):
                made.take_rounding(graph_module.get_submodule(str(node.all_input_nodes[0].target)))
            graph_module.set_submodule(str(node.target), made)
    assert isinstance(graph_module, fx.GraphModule)
    if network.runtime == "openvino":
        _leave_out_zeros(graph_module)
    return graph_module.eval()


def _leave_out_zeros(lowered: nn.Module) -> None:
    """Without the zero points of weights, which are 0 and which ONNX Runtime's matrix product asks for.

    The exporter stores equal constants once. Where weights of several shapes share one, OpenVINO 2026.4
    computes them in float if it knows the shape of the image.
    """
    for part in lowered.modules():
        if isinstance(part, _Integers):
            part.zero_point = None


def _place_clips(made: nn.Module, operator: Operator, network: QuantizedNetwork) -> None:
    """Clip before rounding where the runtime computes something else if it is done behind."""
    if isinstance(made, _Integer):
        for index, read in enumerate(made.read):
            before = network.producer((operator.name, index))
            rounded_already = before is not None and before.output is not None
            for grid in read.modules():
                if isinstance(grid, _Activation):
                    grid.clips_first = rounded_already
                    grid.rounds_first = network.runtime == "openvino"


def check_integer(network: QuantizedNetwork) -> None:
    """Refuse quantizers that integer kernels cannot execute.

    Raises:
        ExportError: the first one, named, and what to do.
    """
    for name, operator in network.operators.items():
        if not operator.quantized:
            continue
        if type(operator).forward is not Operator.forward and not isinstance(operator, GatedActivation):
            raise ExportError(
                f"{name} is computed by {type(operator).__name__}: no runtime has that operator.",
                fix="Choose a method whose table says that it ends in integers, or keep this one in float.",
            )
        for index, quantizer in enumerate(operator.input_quantizers):
            _check_activation(quantizer, f"input {index} of {name}")
        _check_activation(operator.output, f"the output of {name}")
        _check_weight(operator, name)


def _check_activation(quantizer: Quantizer | None, where: str) -> None:
    if quantizer is None:
        return
    uniform = _uniform(quantizer, where)
    if uniform.axis is not None:
        raise ExportError(
            f"There is a scale for each channel of {where}: it cannot leave the sum over channels, so no "
            "integer kernel of ONNX Runtime or OpenVINO takes it.",
            fix="Quantize it by tensor, move the scales into the weights before it, or keep it in float.",
        )
    zero = float(uniform.zero_point)
    if not uniform.qmin <= zero <= uniform.qmax:
        raise ExportError(
            f"The zero point of {where} is {zero:.0f}, outside {uniform.qmin} to {uniform.qmax}.",
            fix="Widen the range so that it contains 0.",
        )


def _check_weight(operator: Operator, name: str) -> None:
    if operator.weight_quantizer is None:
        return
    uniform = _uniform(operator.weight_quantizer, f"the weights of {name}")
    if uniform.zero_point.any() or uniform.qmin < -128 or uniform.qmax > 127:
        raise ExportError(
            f"The weights of {name} have zero points; integer kernels take signed weights around 0.",
            fix="Quantize weights by the symmetric scheme.",
        )
    if not isinstance(operator, Convolution | Linear):
        raise ExportError(f"{name} ({operator.kind}) has quantized weights, and no integer kernel has such.")
    if uniform.axis not in {None, operator.weight_axis}:
        raise ExportError(
            f"The scales of the weights of {name} run along dimension {uniform.axis}.",
            fix="Give each output channel one scale.",
        )


def _uniform(quantizer: Quantizer, where: str) -> UniformQuantizer:
    if isinstance(quantizer, UniformQuantizer):
        return quantizer
    raise ExportError(
        f"{type(quantizer).__name__} of {where} is not evenly spaced: no integer kernel carries it.",
        fix="Choose a method whose table says that it ends in integers, or keep this operator in float.",
    )


def _lowered(operator: Operator, network: QuantizedNetwork) -> nn.Module:
    runtime = network.runtime
    if runtime == "openvino" and isinstance(operator, Norm) and operator.groups == 1:
        return _MapNorm(operator)
    if not operator.quantized or not operator.has_quantizers:
        return operator
    if isinstance(operator, Convolution):
        return _IntegerConvolution(operator)
    if isinstance(operator, Linear):
        if operator.weights_only:
            return _StoredLinear(operator)
        before = network.producer((operator.name, 0))
        apart = runtime == "openvino" and not isinstance(before, Linear | Activation)
        return _IntegerLinear(operator, apart=apart)
    if isinstance(operator, GatedActivation):
        return _IntegerGate(operator)
    if writes_integers(operator, runtime):
        return _IntegerMean(operator)
    narrow = any(cast(UniformQuantizer, q).bits < 8 for q in operator.input_quantizers if q is not None)
    in_float = isinstance(operator, Activation) or (narrow and not isinstance(operator, Norm))
    if isinstance(operator, Reduction | Softmax) or (runtime == "openvino" and in_float):
        return _RoundedInFloat(operator)
    return _Integer(operator)


class _Integer(nn.Module):
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


class _IntegerConvolution(_Integer):
    def __init__(self, operator: Convolution) -> None:
        super().__init__(operator)
        self.weight, self.bias = _parameters(operator, dims=4)

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        o = cast(Convolution, self.operator)
        bias = None if self.bias is None else self.bias()
        return functional.conv2d(inputs[0], self.weight(), bias, o.stride, o.padding, o.dilation, o.groups)


class _IntegerLinear(_Integer):
    """x Wᵀ as a product of two matrices, W x as a 1×1 convolution: integer kernels exist for these.

    Args:
        apart: whether the matrix is rounded apart from what it comes from. OpenVINO then does that four times
            as fast with a dimension before its rows.
    """

    def __init__(self, operator: Linear, *, apart: bool) -> None:
        super().__init__(operator)
        self.weight, self.bias = _parameters(operator, dims=4 if operator.left else 2)
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


class _StoredLinear(_Integer):
    """A product in float with weights that are stored as integers."""

    def __init__(self, operator: Linear) -> None:
        super().__init__(operator)
        self.weight, _ = _parameters(operator, dims=2)

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        return self.operator.compute(inputs, self.weight())


class _Bounded(nn.Module):
    """An operator with bounds behind it that no float reaches.

    They keep OpenVINO 2026.4 from moving the scales of output channels through a reshape behind: where that
    splits or joins channels it refuses the file, or scales all channels as the first.
    """

    _BOUND = 1e30

    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, *inputs: Tensor) -> Tensor:
        """What the operator computes."""
        return self.lowered(*inputs).clamp(-self._BOUND, self._BOUND)


class _IntegerGate(_Integer):
    """x σ(a x) with the sigmoid in integers.

    x and a x are the same integers, read on two scales; so they are rounded here, not where they come from.
    """

    def __init__(self, operator: GatedActivation) -> None:
        super().__init__(operator)
        self.slope = operator.slope
        self.gate = _activation(operator.gate)

    def take_rounding(self, before: nn.Module) -> None:
        """Round what was read instead of `before`, which computes it."""
        if self.slope != 1 and isinstance(before, _Integer) and isinstance(self.read[0], nn.Identity):
            self.read[0], before.write = before.write, self.read[0]

    @override
    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        read = self.read[0]
        x, scaled = read.scaled(x, self.slope) if isinstance(read, _Activation) else (x, self.slope * x)
        return self.write(x * self.gate(scaled.sigmoid()))


class _IntegerMean(_Integer):
    """The mean over all pixels, by the operator of ONNX that has an integer kernel."""

    @override
    def compute(self, inputs: Sequence[Tensor]) -> Tensor:
        (x,) = inputs
        shape = (*x.shape[:2], 1, 1)
        mean = torch.onnx.ops.symbolic("GlobalAveragePool", (x,), dtype=torch.float32, shape=shape)
        return mean if cast(Reduction, self.operator).keeps_dimensions else mean.flatten(1)


class _RoundedInFloat(_Integer):
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


class _MapNorm(_Integer):
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


class _Rounding(nn.Module):
    """The numbers of a quantizer, without integers."""

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        zero = float(quantizer.zero_point)
        self.scale, self.bounds = float(quantizer.scale), (quantizer.qmin - zero, quantizer.qmax - zero)

    def forward(self, x: Tensor) -> Tensor:
        """The nearest representable numbers."""
        return (x / self.scale).clamp(*self.bounds).round() * self.scale


def _rounding(quantizer: Quantizer | None) -> nn.Module:
    return nn.Identity() if quantizer is None else _Rounding(cast(UniformQuantizer, quantizer))


class _Activation(nn.Module):
    """Rounds to a grid of unsigned 8-bit integers, of which narrower grids use a part.

    Those are clipped to their part after rounding: before it, the clip would stand between a convolution and
    the integers that it writes, which ONNX Runtime would not merge. It comes first (`clips_first`) where two
    roundings would follow each other, of which ONNX Runtime makes a third. OpenVINO 2026.4 computes other
    numbers with the clip behind; and it adds the zero point before it rounds, in single precision, so that
    what is close to a half may move by a step, and steps are large where they are few. There, numbers are on
    the grid before they become integers (`rounds_first`).
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: UniformQuantizer) -> None:
        super().__init__()
        # Signed integers are moved up by 128: kernels for unsigned ones exist everywhere and are the faster.
        shift = 128 if quantizer.qmin < 0 else 0
        self.register_buffer("scale", quantizer.scale.clone())
        self.register_buffer("zero_point", (quantizer.zero_point + shift).to(torch.uint8))
        full = (quantizer.qmin + shift, quantizer.qmax + shift) == (0, 255)
        self.bounds = None if full else (float(quantizer.low), float(quantizer.high))
        self.in_float = _Rounding(quantizer)
        self.clips_first = self.rounds_first = False

    def forward(self, x: Tensor) -> Tensor:
        """The nearest representable numbers."""
        if self.bounds is None:
            return self._round(x)
        if self.rounds_first:
            return self._round(self.in_float(x))
        if self.clips_first:
            return self._round(x.clamp(*self.bounds))
        return self._round(self._round(x).clamp(*self.bounds))

    def scaled(self, x: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """The nearest representable numbers, and these times `factor`."""
        if self.bounds is not None or factor == 1:
            x = self(x)
            return x, factor * x
        integers = quantize(x, self.scale, self.zero_point)
        return tuple(dequantize(integers, self.scale * f, self.zero_point, None) for f in (1, factor))

    def _round(self, x: Tensor) -> Tensor:
        return round_to_grid(x, self.scale, self.zero_point)


def _activation(quantizer: Quantizer | None) -> nn.Module:
    return nn.Identity() if quantizer is None else _Activation(cast(UniformQuantizer, quantizer))


class _Integers(nn.Module):
    """Fixed integers and what they stand for."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", torch.zeros_like(scale, dtype=integers.dtype))

    def forward(self) -> Tensor:
        """The numbers."""
        return dequantize(self.integers, self.scale, self.zero_point, axis=0 if self.scale.dim() else None)


def _parameters(operator: Operator, *, dims: int) -> tuple[nn.Module, nn.Module | None]:
    """Weights, of so many dimensions, and bias as integers; the bias in the sums' own unit, s_x s_w."""
    weight, bias, grid = operator.weight, operator.bias, operator.weight_quantizer
    assert weight is not None
    shape = (*weight.shape, *[1] * (dims - weight.dim()))
    weights: nn.Module = _Constant(weight.reshape(shape))
    if isinstance(grid, UniformQuantizer):
        scale = grid.scale if grid.axis is None else grid.scale.expand(len(weight))
        weights = _Integers(grid.integers(weight).to(torch.int8).reshape(shape), scale)
    if bias is None:
        return weights, None
    unit = bias_unit(operator)
    if unit is None:
        return weights, _Constant(bias)
    return weights, _Integers((bias.double() / unit).round().to(torch.int32), unit)


class _Constant(nn.Module):
    """Numbers that stay as they are."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self) -> Tensor:
        """The numbers."""
        return self.value
