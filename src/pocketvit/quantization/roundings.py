"""Roundings that methods chose and the kernels of a runtime skip, or gain nothing from."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Addition, Multiplication, Operator
from pocketvit.quantization.outputs import is_read_as_one
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["leave_out_roundings"]

_REASONS = {
    "openvino": "OpenVINO computes {}s in float, and nothing else rounds what this one reads",
    "onnxruntime": "the integer {} returns integers; this one is also read in float or on several grids",
}


def leave_out_roundings(network: QuantizedNetwork, operators: Sequence[Operator]) -> None:
    """Take these quantizers away from `operators`, in the order they run, and say what is in float then.

    OpenVINO adds a residual branch inside the convolution that ends it, before anything is rounded, and
    computes other sums and products in float. ONNX Runtime has both in integers, if integers are what all
    that reads the result wants. A sum or product in float reads integers only where these are there anyway.
    """
    if network.runtime is None:
        return
    for operator in operators:
        if operator.weights_only:
            for index in range(operator.arity):
                operator.set_input(index, None)
    for operator in reversed(operators):  # whether a result is read in float shows when its readers are done
        if not isinstance(operator, Addition | Multiplication):
            continue
        if network.runtime == "onnxruntime" and is_read_as_one(network, operator):
            continue
        for index in range(operator.arity):
            if not _is_rounded_anyway(network, operator, index):
                operator.set_input(index, None)
        if not operator.has_quantizers:
            name = "sum" if isinstance(operator, Addition) else "product"
            operator.float_reason = _REASONS[network.runtime].format(name)


def _is_rounded_anyway(network: QuantizedNetwork, operator: Operator, index: int) -> bool:
    """Whether all that reads a tensor besides sums and products rounds it to the grid they have for it."""
    grid = operator.input_quantizers[index]
    readers = [(network.operator(name), i) for name, i in network.readers_of((operator.name, index))]
    grids = [o.input_quantizers[i] for o, i in readers if not isinstance(o, Addition | Multiplication)]
    return (
        isinstance(grid, UniformQuantizer)
        and bool(grids)
        and all(isinstance(other, UniformQuantizer) and other.same_grid(grid) for other in grids)
    )
