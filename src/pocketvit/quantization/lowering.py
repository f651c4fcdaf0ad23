"""From a calibrated network to one whose export is a graph that integer kernels execute.

Every quantizer becomes ONNX's QuantizeLinear and DequantizeLinear; weights and biases become the integers
that they are. Runtimes merge an operator with the pairs around it into one integer kernel.
"""

from __future__ import annotations

import copy
from typing import cast

from torch import Tensor, fx, nn

from pocketvit.core.errors import ExportError
from pocketvit.quantization.biases import bias_unit
from pocketvit.quantization.gated import GatedActivation
from pocketvit.quantization.integer_modules import (
    Bounded,
    GroupNormInDouble,
    IntegerConvolution,
    IntegerGate,
    IntegerLinear,
    IntegerMean,
    IntegerOperator,
    MapNorm,
    RoundedInFloat,
    SoftmaxInFloat,
    StoredLinear,
)
from pocketvit.quantization.integer_numbers import Grid, StoredIntegers
from pocketvit.quantization.kernels import writes_integers
from pocketvit.quantization.layout import take_tokens_by_rows
from pocketvit.quantization.network import QuantizedNetwork
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
from pocketvit.quantization.padding import pad_channels
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
    assert isinstance(graph_module, fx.GraphModule)
    lowered: dict[str, nn.Module] = {}
    for node in graph_module.graph.nodes:
        if node.op == "call_module":
            operator = cast(Operator, graph_module.get_submodule(str(node.target)))
            made = lowered[operator.name] = _lowered(operator, network)
            _place_clips(made, operator, network)
            if isinstance(made, IntegerGate):
                made.take_rounding(graph_module.get_submodule(str(node.all_input_nodes[0].target)))
            graph_module.set_submodule(str(node.target), made)
    if network.runtime == "onnxruntime":
        pad_channels(network, lowered)
    if network.runtime == "openvino":
        _leave_out_zeros(graph_module)
        _move_zero_points(network, lowered)
        _bound(network, graph_module)
        take_tokens_by_rows(graph_module, network)
    return graph_module.eval()


def _leave_out_zeros(lowered: nn.Module) -> None:
    """Without the zero points of weights, which are 0 and which ONNX Runtime's matrix product asks for.

    The exporter stores equal constants once. Where weights of several shapes share one, OpenVINO 2026.4
    computes them in float if it knows the shape of the image.
    """
    for part in lowered.modules():
        if isinstance(part, StoredIntegers):
            part.zero_point = None


def _move_zero_points(network: QuantizedNetwork, lowered: dict[str, nn.Module]) -> None:
    """Zero points of what is read go into biases: W s (q - z) + b = W s q + (b - s z W 1).

    In units of the sums that is exact, and OpenVINO multiplies integers without a zero point up to twice as
    fast. Not where zeros are padded, which would have to be z; nor where others read the same integers, since
    these are made once.
    """
    able = {name for name, operator in network.operators.items() if _takes_zero_point(operator)}
    for name in able:
        readers = [(network.operator(reader), i) for reader, i in network.readers_of((name, 0))]
        if all(o.name in able for o, i in readers if o.quantized and o.input_quantizers[i] is not None):
            made = lowered[name]
            assert isinstance(made, IntegerConvolution | IntegerLinear)
            made.take_zero_point()


def _takes_zero_point(operator: Operator) -> bool:
    if not operator.quantized or bias_unit(operator) is None:
        return False
    if isinstance(operator, Convolution):
        assert operator.weight is not None
        return operator.weight[0, 0].numel() == 1 and operator.padding in {(0, 0), "valid", "same"}
    return isinstance(operator, Linear)


def _bound(network: QuantizedNetwork, graph_module: nn.Module) -> None:
    """Put bounds behind what returns integers times scales of channels, where something reshapes it."""
    modules = dict(network.graph_module.named_modules())
    for node in network.graph_module.graph.nodes:
        operator = modules.get(str(node.target))
        if isinstance(operator, Operator) and operator.weight_quantizer and not operator.weights_only:
            readers = [modules.get(str(reader.target)) for reader in node.users]
            if not all(isinstance(reader, _SHAPE_KEEPING) for reader in readers):
                made = graph_module.get_submodule(str(node.target))
                graph_module.set_submodule(str(node.target), Bounded(made))


def _place_clips(made: nn.Module, operator: Operator, network: QuantizedNetwork) -> None:
    """Clip before rounding where the runtime computes something else if it is done behind."""
    if isinstance(made, IntegerOperator):
        for index, read in enumerate(made.read):
            before = network.producer((operator.name, index))
            rounded_already = before is not None and before.output is not None
            for grid in read.modules():
                if isinstance(grid, Grid):
                    grid.clips_first = rounded_already
                    grid.rounds_first = network.runtime == "openvino"
                    if isinstance(before, MatMul) and isinstance(operator, Linear) and not operator.left:
                        grid.keep_in_place(cast(Tensor, operator.weight).shape[1])


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
        return MapNorm(operator)
    before = network.producer((operator.name, 0))
    if not operator.quantized or not operator.has_quantizers:
        reads_integers = runtime == "onnxruntime" and before is not None and before.output is not None
        return SoftmaxInFloat(operator) if isinstance(operator, Softmax) and reads_integers else operator
    if isinstance(operator, Norm) and operator.groups:
        return GroupNormInDouble(operator)
    if isinstance(operator, Convolution):
        return IntegerConvolution(operator)
    if isinstance(operator, Linear):
        if operator.weights_only:
            return StoredLinear(operator)
        apart = runtime == "openvino" and not isinstance(before, Linear | Activation)
        return IntegerLinear(operator, apart=apart)
    if isinstance(operator, GatedActivation):
        return IntegerGate(operator)
    if writes_integers(operator, runtime):
        return IntegerMean(operator)
    narrow = any(cast(UniformQuantizer, q).bits < 8 for q in operator.input_quantizers if q is not None)
    in_float = isinstance(operator, Activation) or (narrow and not isinstance(operator, Norm))
    if isinstance(operator, Reduction | Softmax) or (runtime == "openvino" and in_float):
        return RoundedInFloat(operator)
    return IntegerOperator(operator)
