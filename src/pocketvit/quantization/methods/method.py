"""What every method is: a function that gives the operators of a network their quantizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pocketvit.quantization.calibration import Calibration
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["Calibrate", "Method"]

Calibrate = Callable[[QuantizedNetwork, Sequence[Operator], Calibration, QuantizationSpec], None]
"""`(network, operators, calibration, spec)`: sets the quantizers of `operators`, those to be quantized."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose quantizers.

    Attributes:
        name: as the command line has it.
        calibrate: does it.
        title: one line: what it does.
        source: paper or program it follows.
        integer: whether an integer kernel can execute every quantizer it may choose; if not, it is simulated.
    """

    name: str
    calibrate: Calibrate
    title: str
    source: str
    integer: bool
