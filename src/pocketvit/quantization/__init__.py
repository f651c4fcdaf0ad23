"""Post-training quantization: from a trained network to one that computes in integers."""

from __future__ import annotations

from pocketvit.quantization.calibration import Calibration
from pocketvit.quantization.capture import capture
from pocketvit.quantization.methods import METHODS
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.quantize import quantize
from pocketvit.quantization.spec import OperatorBits, QuantizationSpec

__all__ = [
    "METHODS",
    "Calibration",
    "OperatorBits",
    "QuantizationSpec",
    "QuantizedNetwork",
    "capture",
    "quantize",
]
