"""Q-HyViT as its released code has it, which differs from the paper (see `qhyvit`).

1. Cover every tensor with symmetric quantizers; convolutions with several groups have a scale for each input
   channel, others one for the tensor (a rule, no search). Switch all off again.
2. For every operator in order, PTQ4ViT's search: three rounds over 100 scales, 0.01 to 1.1881 times the
   whole range (the grid ends before 1.2), by E[(g · (o − ô))²] at the operator's own output.
3. An operator of a bridge block stays quantized from then on, so that the gradients of those after it see its
   error. All others are in float while the search goes on.

Before the first bridge block everything is in float, KL at its minimum and g rounding noise. That is
reproduced; noise still follows how sensitive channels are. Should it be 0 everywhere an error says so, and
where a search has no preference the whole range stays: no layer is lost to the smallest scale.

Not reproduced: channel scales computed with the width of the weights (they have that of the activations),
and membership in a bridge block read from a progress bar. Sums, products and means, float in the released
code, are quantized here as in every method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization.bridges import bridges
from pocketvit.quantization.calibration import Calibration, Sample, float_logits, output_gradients, samples
from pocketvit.quantization.methods.easyquant import alternate, cover, scale_searches, symmetric
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.objectives import GradientWeighted, Objective
from pocketvit.quantization.operators import Convolution, Linear, MatMul, Operator
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.search import best_scales, factors, search_input
from pocketvit.quantization.spec import QuantizationSpec

__all__ = ["QHYVIT_CODE"]

_GRID = factors(0.01, 1.2, 101)[:-1]
_ROUNDS = 3


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Choose the quantizers of `operators`."""
    for operator, sample in samples(network, calibration, operators):
        cover(operator, sample, spec)
        if isinstance(operator, Convolution) and operator.groups > 1:
            bits = spec.activation_bits(operator.name)
            operator.set_input(0, symmetric(sample.inputs[0], bits=bits, axis=1))
    target = float_logits(network, calibration)
    listed = {o for bridge in bridges(network) for o in bridge.operators} & set(operators)
    left, quantized = list(operators), list[Operator]()
    gradients: dict[str, Tensor] = {}
    found = samples(network, calibration, operators)
    with progress_bar() as bar:
        for operator, sample in bar.track(found, total=len(operators), description="searching"):
            if not gradients:  # they change only where one more operator stays quantized
                with network.only(quantized):
                    gradients = output_gradients(network, calibration, left, target)
            objective = GradientWeighted(sample.output, gradients.pop(operator.name))
            searches = scale_searches(operator, sample, objective, _GRID)
            if isinstance(operator, Convolution) and operator.groups > 1:
                searches[0] = _channel_search(operator, sample, objective)
            alternate(operator, searches, rounds=_ROUNDS)
            left.remove(operator)
            if operator in listed and isinstance(operator, Convolution | Linear | MatMul):
                quantized.append(operator)
                gradients.clear()


def _channel_search(
    operator: Convolution, sample: Sample, objective: Objective
) -> Callable[[], UniformQuantizer]:
    """For a scale each input channel: one by one where it reaches one output channel, else by one factor."""
    base = operator.input_quantizers[0]
    assert isinstance(base, UniformQuantizer)
    if len(base.scale) == sample.output.shape[1] and operator.is_depthwise:
        return lambda: search_input(operator, 0, sample, objective, base=base, grid=_GRID)[0]

    def search() -> UniformQuantizer:
        weight = operator.quantized_weight()
        return best_scales(base, _GRID, lambda q: objective(operator.compute([q(sample.inputs[0])], weight)))[
            0
        ]

    return search


QHYVIT_CODE = Method(
    name="qhyvit_code",
    calibrate=calibrate,
    title="Q-HyViT as released: symmetric, granularity by rule, bridge blocks stay quantized (simulated)",
    source="what is known of the code of Lee et al., arXiv 2303.12557",
    integer=False,
)
