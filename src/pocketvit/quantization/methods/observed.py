"""The three observers: every range from one look at the tensor, no search on outputs."""

from __future__ import annotations

from collections.abc import Sequence

from pocketvit.quantization import ranges
from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.methods.method import Calibrate, Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Norm, Operator
from pocketvit.quantization.ranges import Observer
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["MINMAX", "OMSE", "PERCENTILE", "observe", "quantize_weight"]


def observe(observer: Observer) -> Calibrate:
    """Weights symmetric with a scale an output channel by min-max, activations asymmetric by `observer`."""

    def calibrate(
        network: QuantizedNetwork,
        operators: Sequence[Operator],
        calibration: Calibration,
        spec: QuantizationSpec,
    ) -> None:
        for operator, sample in samples(network, calibration, operators):
            quantize_weight(operator, spec)
            for index, x in enumerate(sample.inputs):
                bits = spec.activation_bits(operator.name)
                operator.set_input(index, observer(x, bits=bits, scheme="asymmetric"))

    return calibrate


def quantize_weight(operator: Operator, spec: QuantizationSpec) -> None:
    """Weights to symmetric integers, a scale an output channel, by min-max."""
    if operator.weight is None or isinstance(operator, Norm):
        return
    bits = spec.weight_bits(operator.name)
    operator.weight_quantizer = ranges.minmax(
        operator.weight, bits=bits, scheme="symmetric", axis=operator.weight_axis
    )


MINMAX = Method(
    name="minmax",
    calibrate=observe(ranges.minmax),
    title="the whole range seen",
    source="Jacob et al., arXiv 1712.05877, section 3.1",
    integer=True,
)
PERCENTILE = Method(
    name="percentile",
    calibrate=observe(ranges.percentile),
    title="the range without its outermost 0.001 %",
    source="FQ-ViT's observer; Li et al., CVPR 2019 (Fully Quantized Network for Object Detection)",
    integer=True,
)
OMSE = Method(
    name="omse",
    calibrate=observe(ranges.omse),
    title="the range of least squared error of the tensor",
    source="Choukroun et al., arXiv 1902.06822; FQ-ViT's observer",
    integer=True,
)
