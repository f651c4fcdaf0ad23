"""FQ-ViT: everything in integers, norms and softmax included.

1. Weights are symmetric with a scale an output channel, s = max|w| / (2^(k−1) − ½); what operators read is
   asymmetric with one scale for the tensor; both by the whole range seen.
2. Under full scope, what a norm reads has a scale s · 2^α for each channel, α from 0 to 3 (power-of-two
   factor), and the norm is computed on these integers.
3. Under full scope, softmax is computed on the integers of the scores and returns powers of 2 in 4 bits
   (log-int-softmax), so that the product with the values needs shifts alone.

Under partial scope, norms and softmax are in float and what remains is point 1.

The authors' program has 8 bits (and 4 for attention). Other widths here keep every formula with 2^k in place
of 2^8; the 4 bits of attention and the 8 bits of the norm's multiplier M stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization import ranges
from pocketvit.quantization.calibration import Calibration, Sample, samples
from pocketvit.quantization.integer_norm import IntegerNorm, power_of_two_factors
from pocketvit.quantization.integer_softmax import IntegerSoftmax, second_order
from pocketvit.quantization.logarithmic import LogarithmicQuantizer
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.network import Operand, QuantizedNetwork
from pocketvit.quantization.operators import Norm, Operator, Softmax
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer, check_bits
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["FQVIT", "quantize_weight", "widest"]

_ATTENTION_BITS = 4


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Choose the quantizers of `operators`, and put integer norms and softmax in their place."""
    chosen = {operator.name for operator in operators}
    found = samples(network, calibration, operators)
    with progress_bar() as bar:
        for operator, sample in bar.track(found, total=len(operators), description="ranges"):
            bits = spec.activation_bits(operator.name)
            quantize_weight(operator, spec)
            for index, x in enumerate(sample.inputs):
                quantizer = _for_attention(network, (operator.name, index), chosen)
                operator.set_input(index, quantizer or ranges.minmax(x, bits=bits, scheme="asymmetric"))
            if isinstance(operator, Norm):
                network.replace(operator, _integer_norm(network, operator, sample, spec))
            elif isinstance(operator, Softmax):
                integer = IntegerSoftmax(operator, exponential=second_order, logarithm=_ATTENTION_BITS)
                network.replace(operator, integer)


def _for_attention(network: QuantizedNetwork, operand: Operand, chosen: set[str]) -> Quantizer | None:
    """Powers of 2 for what an integer softmax returns."""
    producer = network.producer(operand)
    if isinstance(producer, Softmax) and producer.name in chosen:
        return LogarithmicQuantizer(scale=1.0, bits=_ATTENTION_BITS, steps=1)
    return None


def _integer_norm(
    network: QuantizedNetwork, norm: Norm, sample: Sample, spec: QuantizationSpec
) -> IntegerNorm:
    (x,) = sample.inputs
    bits = spec.activation_bits(norm.name)
    norm.set_input(0, power_of_two_factors(x, bits=bits, axis=norm.channel_axis(x)))
    return IntegerNorm(norm, output_scale=ranges.minmax(sample.output, bits=bits, scheme="asymmetric").scale)


def quantize_weight(operator: Operator, spec: QuantizationSpec) -> None:
    """Weights to symmetric integers, a scale an output channel, by the whole range."""
    if operator.weight is None or isinstance(operator, Norm):
        return
    operator.weight_quantizer = widest(operator.weight, bits=spec.weight_bits(operator.name))


def widest(weight: Tensor, *, bits: int) -> UniformQuantizer:
    """Signed integers with s = max|w| / (2^(bits−1) − ½) for each output channel."""
    check_bits(bits)
    half = 2 ** (bits - 1)
    largest = weight.double().abs().flatten(1).amax(dim=1)
    return UniformQuantizer(scale=largest / (half - 0.5), qmin=-half, qmax=half - 1, axis=0)


FQVIT = Method(
    name="fqvit",
    calibrate=calibrate,
    title="the whole range; under full scope norms and softmax in integers (these are simulated)",
    source="Lin et al., arXiv 2111.13824",
    integer=False,
)
