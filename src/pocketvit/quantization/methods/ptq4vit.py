"""PTQ4ViT: EasyQuant's search with a better objective and twin quantizers behind softmax and GELU.

1. Cover every tensor with symmetric quantizers, and take g = ∂KL/∂O of every output of the network so
   quantized. (The released code takes it from the float network, where KL is at its minimum and g is noise.)
2. For every operator, with what it reads and returns in the float network, three rounds of: the weights'
   scale, then each input's, from 100 between 0.01·s₀ and 1.2·s₀ by E[(g · (o − ô))²], the others as found so
   far.
3. Where an input is what softmax returned, its quantizer is a twin with the best split of 2⁰ … 2⁻¹⁹; where
   it is what GELU, SiLU or Hardswish returned, a twin whose negative step is given by the function's own
   minimum and whose positive scale is searched. (The released code knows GELU's minimum only.)

Granularity as in `easyquant`; inputs of convolutions, sums, products and means are quantized too, which the
paper leaves in float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization.calibration import Calibration, Sample, float_logits, output_gradients, samples
from pocketvit.quantization.methods.easyquant import alternate, cover, scale_searches
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.objectives import GradientWeighted, Objective
from pocketvit.quantization.operators import Activation, Operator, Softmax
from pocketvit.quantization.quantizers import Quantizer
from pocketvit.quantization.search import factors
from pocketvit.quantization.spec import QuantizationSpec
from pocketvit.quantization.twin import DIPPING, TwinUniformQuantizer, lowest_value

__all__ = ["PTQ4VIT"]

_ALPHA, _BETA, _COUNT, _ROUNDS = 0.01, 1.2, 100, 3
_SPLITS = tuple(2.0**-i for i in range(20))


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Choose the quantizers of `operators`."""
    for operator, sample in samples(network, calibration, operators):
        cover(operator, sample, spec)
    gradients = output_gradients(network, calibration, operators, float_logits(network, calibration))
    grid = factors(_ALPHA, _BETA, _COUNT)
    found = samples(network, calibration, operators)
    with progress_bar() as bar:
        for operator, sample in bar.track(found, total=len(operators), description="searching"):
            objective = GradientWeighted(sample.output, gradients.pop(operator.name))
            searches = scale_searches(operator, sample, objective, grid)
            for index in range(operator.arity):
                twins = _twins(operator, index, sample, network, spec, grid)
                if twins:
                    searches[index] = _best_of(twins, operator, index, sample, objective)
            alternate(operator, searches, rounds=_ROUNDS)


def _twins(
    operator: Operator,
    index: int,
    sample: Sample,
    network: QuantizedNetwork,
    spec: QuantizationSpec,
    grid: Sequence[float],
) -> list[TwinUniformQuantizer]:
    """The twin quantizers to try for an input, the one to prefer first; none if it needs no twin."""
    bits = spec.activation_bits(operator.name)
    producer = network.producer((operator.name, index))
    if isinstance(producer, Softmax):
        return [TwinUniformQuantizer.for_softmax(split=split, bits=bits) for split in _SPLITS]
    if isinstance(producer, Activation) and producer.function in DIPPING:
        largest = sample.inputs[index].max().clamp_min(0).double() / (2 ** (bits - 1) - 0.5)
        lowest = lowest_value(producer)
        return [
            TwinUniformQuantizer.for_activation(scale=largest * factor, lowest=lowest, bits=bits)
            for factor in sorted(grid, key=lambda f: abs(f - 1))
        ]
    return []


def _best_of(
    candidates: Sequence[Quantizer], operator: Operator, index: int, sample: Sample, objective: Objective
) -> Callable[[], Quantizer]:
    """A search for the candidate of least loss, the first of them if there are several."""

    def search() -> Quantizer:
        inputs = operator.quantized_inputs(sample.inputs)
        weight = operator.quantized_weight()

        def loss(quantizer: Quantizer) -> Tensor:
            tried = [*inputs[:index], quantizer(sample.inputs[index]), *inputs[index + 1 :]]
            return objective(operator.compute(tried, weight))

        with torch.no_grad():
            losses = torch.stack([loss(quantizer) for quantizer in candidates])
        return candidates[int(losses.nan_to_num(torch.inf).argmin())]

    return search


PTQ4VIT = Method(
    name="ptq4vit",
    calibrate=calibrate,
    title="scales searched by squared gradients, twin quantizers behind softmax and GELU (simulated)",
    source="Yuan et al., arXiv 2111.12293",
    integer=False,
)
