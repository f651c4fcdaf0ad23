"""How far from exact the arithmetic of a runtime is: its order of rounding, in a simulation."""

from __future__ import annotations

import copy

from torch import Tensor
from typing_extensions import override

from pocketvit.quantization import QuantizedNetwork
from pocketvit.quantization.quantizers import UniformQuantizer

__all__ = ["rounded_as"]


def rounded_as(runtime: str, network: QuantizedNetwork) -> QuantizedNetwork:
    """The simulation as far from its own in float64, when it runs in float32, as `runtime` may be.

    OpenVINO multiplies, adds the zero point and only then rounds what its integer kernels read; so does the
    network that is returned. The factor is OpenVINO's own: it rounds others the other way, but as many.
    """
    if runtime != "openvino":
        return network
    network = copy.deepcopy(network)
    for operator in network.operators.values():
        for index, grid in enumerate(operator.input_quantizers):
            if (
                operator.weight_quantizer is not None
                and isinstance(grid, UniformQuantizer)
                and grid.bits == 8
            ):
                operator.set_input(index, _zero_point_first(grid))
    return network


class _ZeroPointFirst(UniformQuantizer):
    """Adds the zero point before it rounds, in the precision of what it rounds."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        zero = self.zero_point + (128 if self.qmin < 0 else 0)  # integers of activations are unsigned
        steps = (x / self.scale + zero).round() - zero
        return steps.clamp(self.qmin - self.zero_point, self.qmax - self.zero_point) * self.scale


def _zero_point_first(grid: UniformQuantizer) -> UniformQuantizer:
    return _ZeroPointFirst(
        scale=grid.scale, zero_point=grid.zero_point, qmin=grid.qmin, qmax=grid.qmax, axis=grid.axis
    )
