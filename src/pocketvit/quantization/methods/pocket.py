"""`pocket`, the default: closed forms, no gradients, only quantizers that integer kernels execute.

First the channels of every tensor are made to reach equally far, by factors that weights take up exactly (see
`quantization.equalization`), if the network gains clearly: one loud channel of a residual stream that nothing
normalises leaves the others few steps.

Then the network is walked in order, so that each operator sees what the integers before it really deliver:

1. The range of a tensor is the one of least squared error, each image's relative to its variance, and images
   that vary ten times as much as the median one left out: without, one of large values takes the steps from
   all others. It is shared by all that read the tensor, so that an integer runtime writes it once (least
   error: OMSE, Choukroun et al.; the rest ours). Where that is an activation function alone (full scope), the
   error is the one behind it.
2. Weights get the scale of least error of the operator's result, by the second moments of what is read; a
   scale an output channel.
3. Closed-form correction of the weights: the inputs' error by ridge regression (ERQ), rounding with feedback
   (OPTQ), each kept only where images it has not seen agree; the bias takes the mean error. Here too an
   image's error is relative to its variance, and an image with a large error weighs little (Geman and
   McClure's weights): what step 1 clips in one is not made up for in all others.
4. What a convolution returns is quantized to 8 bits in the range that matters behind its activation function.

It takes equalization from Nagel et al. and RepQ-ViT, the sequential order from EasyQuant, step 1 from OMSE,
step 3 from ERQ and OPTQ. Equalization of all that is tied, that a step is kept only where it pays, and step 4
are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization.calibration import Calibration, float_logits
from pocketvit.quantization.correction import correct_weights, least_error_weights
from pocketvit.quantization.equalization import equalize, equalize_like
from pocketvit.quantization.kernels import writes_integers
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.methods.observed import observe
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Activation, Convolution, Linear, Operator
from pocketvit.quantization.outputs import activation_behind, quantize_output
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.ranges import least_error, minmax, with_fitted_step
from pocketvit.quantization.sensitivity import logit_error
from pocketvit.quantization.spec import QuantizationSpec
from pocketvit.quantization.walk import Step, walk

__all__ = ["POCKET", "calibrate"]

_WORTH_IT = 0.65
"""Of the error without. CAS-ViT keeps 0.2 to 0.57 of it, others 0.73 and more, some four times as much: what
is won in tensors is lost in the weights."""


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Equalize channels where it pays, then set every quantizer of `operators` in one walk."""
    _equalize(network, operators, calibration, spec)
    chosen, shared = set(operators), dict[Hashable, UniformQuantizer]()
    with progress_bar() as bar:
        for step in bar.track(
            walk(network, calibration), description="quantizing", total=len(network.operators)
        ):
            if step.operator in chosen:
                _inputs(network, step, calibration, spec, shared)
                _weights(step, spec)
                if writes_integers(step.operator, spec.runtime):
                    _output(network, step)


def _equalize(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Divide channels if plain min-max quantization then leaves the logits clearly less of their error."""
    names = [operator.name for operator in operators]
    equal = copy.deepcopy(network)
    equalize(equal, [equal.operator(name) for name in names], calibration)
    wanted = float_logits(network, calibration)

    def error(tried: QuantizedNetwork) -> float:
        tried = copy.deepcopy(tried)
        observe(minmax)(tried, [tried.operator(name) for name in names], calibration, spec)
        with torch.no_grad():
            return logit_error(tried(calibration.images), wanted).error

    if error(equal) < _WORTH_IT * error(network):
        equalize_like(network, equal)


def _inputs(
    network: QuantizedNetwork,
    step: Step,
    calibration: Calibration,
    spec: QuantizationSpec,
    shared: dict[Hashable, UniformQuantizer],
) -> None:
    if step.operator.weights_only:
        return
    name, bits = step.operator.name, spec.activation_bits(step.operator.name)
    images, function = len(calibration.images), _function_alone(network, step.operator)
    for index, x in enumerate(step.inputs):
        # Parts of one tensor have one source, but each part a range of its own.
        key = (network.sources[name, index], bits, x.numel(), *map(float, x.aminmax()))
        if key not in shared:
            grid = least_error(x, bits=bits, images=images, behind=function)
            shared[key] = with_fitted_step(grid, x) if spec.runtime else grid
        step.operator.set_input(index, shared[key])


def _function_alone(network: QuantizedNetwork, operator: Operator) -> Callable[[Tensor], Tensor] | None:
    """The function that is all that becomes of what `operator` reads: the error behind it is what counts."""
    if isinstance(operator, Activation):
        producer = network.producer((operator.name, 0))
        if producer is not None and network.only_reader(producer) is operator:
            return lambda values: operator.compute([values], None)
    return None


def _weights(step: Step, spec: QuantizationSpec) -> None:
    operator = step.operator
    if not isinstance(operator, Convolution | Linear):
        return
    (read,) = operator.quantized_inputs(step.inputs)
    bits, safe = spec.weight_bits(operator.name), spec.runtime is not None
    quantizer = least_error_weights(operator, read, bits=bits, safe=safe)
    correct_weights(operator, read, step.wanted.output, quantizer)
    operator.weight_quantizer = quantizer


def _output(network: QuantizedNetwork, step: Step) -> None:
    """Where an operator reads the result directly or behind ReLU, its own quantizer will do."""
    if isinstance(step.operator, Convolution):
        behind = activation_behind(network, step.operator)
        if behind is not None and behind.function != "relu":
            quantize_output(step.operator, step.inputs, behind=behind)


POCKET = Method(
    name="pocket",
    calibrate=calibrate,
    title="least-error ranges, channels equalized, weights corrected in closed form; all in integers",
    source="this project; takes from cross-layer equalization, OMSE, ERQ and OPTQ",
    integer=True,
)
