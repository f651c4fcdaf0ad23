"""Quantizers for what operators return: ONNX Runtime's integer convolution and mean write 8-bit integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.kernels import writes_integers
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Activation, Operator
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer
from pocketvit.quantization.ranges import least_error, with_fitted_step
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["activation_behind", "is_read_as_one", "quantize_output", "quantize_outputs"]

_BITS = 8
"""Whatever the width of the inputs: the result of a convolution is not multiplied by weights again."""


def quantize_outputs(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Give an 8-bit quantizer for its result to every operator whose kernel writes integers.

    None is needed where its readers have one.

    Where everything that reads the result quantizes it in one way, that is what the convolution writes.
    Otherwise the range is the one of least squared error behind the activation function that alone reads the
    result, if there is one: what ReLU or SiLU flattens needs no integers.
    """
    writing = [o for o in operators if writes_integers(o, spec.runtime) and o.has_quantizers]
    missing = [o for o in writing if o.output is None and not is_read_as_one(network, o)]
    for operator, sample in samples(network, calibration, missing):
        quantize_output(operator, sample.inputs, behind=activation_behind(network, operator))
    for operator in writing:
        _read_as_written(network, operator)


def quantize_output(operator: Operator, inputs: Sequence[Tensor], *, behind: Activation | None) -> None:
    """Give one operator a quantizer for its result.

    Args:
        inputs: what it reads.
        behind: the activation function that alone reads the result.
    """
    with torch.no_grad():
        operator.output = None
        result = operator(*inputs)
        function = None if behind is None else (lambda values: behind.compute([values], None))
        operator.output = with_fitted_step(least_error(result, bits=_BITS, behind=function), result)


def _read_as_written(network: QuantizedNetwork, operator: Operator) -> None:
    """Let readers of 8 bits read those that were written: ONNX Runtime merges two roundings into a third."""
    if operator.output is None:
        return
    for reader, index in filter(None, _readers(network, operator)):
        grid = reader.input_quantizers[index]
        if isinstance(grid, UniformQuantizer) and grid.axis is None and grid.bits == _BITS:
            reader.set_input(index, operator.output)


def is_read_as_one(network: QuantizedNetwork, operator: Operator) -> bool:
    """Whether all that reads what `operator` returns rounds it to one grid first, and does nothing before.

    ReLU is nothing where the grid begins at 0, as it does behind one.
    """
    reader = activation_behind(network, operator)
    behind_relu = reader is not None and reader.function == "relu" and not reader.has_quantizers
    grids = _grids(network, reader if behind_relu and reader is not None else operator)
    first, *others = grids or [None]
    if not isinstance(first, UniformQuantizer) or first.axis is not None:
        return False
    begins_at_zero = not behind_relu or float(first.low) == 0
    return begins_at_zero and all(isinstance(q, UniformQuantizer) and q.same_grid(first) for q in others)


def _grids(network: QuantizedNetwork, operator: Operator) -> list[Quantizer | None]:
    """The quantizers of all that reads what `operator` returns, moved about at most; `None` for float."""
    return [
        None if reader is None else reader[0].input_quantizers[reader[1]]
        for reader in _readers(network, operator)
    ]


def _readers(network: QuantizedNetwork, operator: Operator) -> list[tuple[Operator, int] | None]:
    """Who reads what `operator` returns, and as which input; `None` for what does more than move it."""
    modules: dict[str, nn.Module] = dict(network.graph_module.named_modules())
    (node,) = (
        n for n in network.graph_module.graph.nodes if n.op == "call_module" and modules[n.target] is operator
    )
    found: list[tuple[Operator, int] | None] = []
    ahead = [(node, reader) for reader in node.users]
    while ahead:
        passed, reader = ahead.pop()
        if reader.op == "output":
            found.append(None)
        elif reader.op == "call_function":
            ahead += [(reader, further) for further in reader.users]
        else:
            reading = cast(Operator, modules[str(reader.target)])
            for index in (i for i, read in enumerate(reader.args) if read is passed):
                moved_only = network.sources[reading.name, index] == node.name
                found.append((reading, index) if moved_only else None)
    return found


def activation_behind(network: QuantizedNetwork, operator: Operator) -> Activation | None:
    """The activation function that alone reads what `operator` returns."""
    reader = network.only_reader(operator)
    return reader if isinstance(reader, Activation) else None
