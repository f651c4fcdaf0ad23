"""HyQ: distribution scaling in front of the 1×1 convolutions of inverted residuals.

1. (QADS) For the two 1×1 convolutions of each inverted residual a divisor α of each input channel is learned
   that makes both the input x / α and the weights w · α easy to quantize::

       min over α of ‖ W x − Q(W · diag(α)) Q(x / α) ‖²

   by Adam, from α = 1 on. Rounding has no gradient, so α is moved through scales alone.
2. The input of a depthwise convolution behind SiLU gets SiLU's minimum, −0.278, for the end of its range.
3. Activations are asymmetric with one scale for the tensor, weights symmetric with a scale an output channel,
   both by the whole range seen.
4. Under full scope, softmax is computed in integers with an exponential that is linear between powers of 2.

The paper's text was not at hand; this follows a description of its program. Multiplying w by α is exact only
if x is divided: free where the convolution before can be divided instead; behind a depthwise convolution and
SiLU, and where a residual reads x too, it is a product in float for each number read, ahead of rounding,
listed in `QuantizedNetwork.float_functions`. The program's option of powers of 2 for attention is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization import ranges
from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.integer_softmax import IntegerSoftmax, linear
from pocketvit.quantization.methods.fqvit import quantize_weight
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Activation, Convolution, Operator, Softmax
from pocketvit.quantization.quantizers import UniformQuantizer, check_bits
from pocketvit.quantization.reparameterize import divide_input
from pocketvit.quantization.spec import QuantizationSpec
from pocketvit.quantization.twin import lowest_value

__all__ = ["HYQ", "inverted_residuals", "learn_divisor"]

_STEPS, _LEARNING_RATE = 300, 0.1
"""The program takes 1000 steps of 0.01, and of 0.1 for mobilevit_xxs. 300 of 0.1 came closer to the best
power of the channels' spread than 1000 of 0.01 did, in all of ten layers of random numbers."""

_PIXELS = 1024
"""Drawn from the calibration images for the loss; ranges are those of all pixels."""

_SMALLEST = 0.05
"""Divisors stay above it."""


def calibrate(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    """Choose the quantizers of `operators`, and divide the inputs of some."""
    _scale_distributions(network, operators, calibration, spec)
    for operator, sample in samples(network, calibration, operators):
        quantize_weight(operator, spec)
        bits = spec.activation_bits(operator.name)
        for index, x in enumerate(sample.inputs):
            low, high = x.aminmax()
            lowest = _silu_minimum(network, operator)
            low = low if lowest is None else torch.full_like(low, lowest)
            operator.set_input(index, UniformQuantizer.from_range(low, high, bits=bits))
        if isinstance(operator, Softmax):
            network.replace(operator, IntegerSoftmax(operator, exponential=linear))


def _scale_distributions(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> None:
    chosen = set(operators)
    # a projection that was merged with the next expansion is both
    pointwise = list(dict.fromkeys(c for pair in inverted_residuals(network) for c in pair if c in chosen))
    divisors: list[tuple[Convolution, Tensor]] = []
    found = samples(network, calibration, pointwise)
    with progress_bar() as bar:
        for operator, sample in bar.track(found, total=len(pointwise), description="distributions"):
            assert isinstance(operator, Convolution)
            divisor = learn_divisor(
                sample.inputs[0],
                operator,
                weight_bits=spec.weight_bits(operator.name),
                activation_bits=spec.activation_bits(operator.name),
                seed=spec.seed,
            )
            divisors.append((operator, divisor))
    for operator, divisor in divisors:
        if not torch.equal(divisor, torch.ones_like(divisor)):
            divide_input(network, operator, divisor)


def inverted_residuals(network: QuantizedNetwork) -> Iterator[tuple[Convolution, Convolution]]:
    """The expanding and the projecting 1×1 convolution of every inverted residual.

    A depthwise convolution between two 1×1 convolutions of which the first has more outputs than inputs, with
    nothing but activation functions between them.
    """
    for operator in network.operators.values():
        if not isinstance(operator, Convolution) or not operator.is_depthwise:
            continue
        before = network.producer((operator.name, 0))
        if isinstance(before, Activation):
            before = network.producer((before.name, 0))
        behind = network.only_reader(operator)
        if isinstance(behind, Activation):
            behind = network.only_reader(behind)
        if _is_pointwise(before) and _is_pointwise(behind) and _expands(before):
            assert isinstance(before, Convolution)
            assert isinstance(behind, Convolution)
            yield before, behind


def learn_divisor(
    x: Tensor, operator: Convolution, *, weight_bits: int, activation_bits: int, seed: int
) -> Tensor:
    """The α of each input channel with which a quantized 1×1 convolution errs least; (input channels,).

    All ones if nothing better is found.

    Args:
        x: what the convolution reads in float, (N, C, H, W).
    """
    check_bits(weight_bits)
    check_bits(activation_bits)
    assert operator.weight is not None
    rows = ranges.by_channel(x, 1)
    low, high = rows.aminmax(dim=1)
    draw = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(seed))[:_PIXELS]
    loss = _loss(
        rows[:, draw].T.contiguous(),
        operator.weight.flatten(1),
        (low, high),
        half=2 ** (weight_bits - 1),
        steps=2**activation_bits - 1,
    )
    return _descend(loss, torch.ones(len(rows)))


def _loss(
    pixels: Tensor, weight: Tensor, extremes: tuple[Tensor, Tensor], *, half: int, steps: int
) -> Callable[[Tensor], Tensor]:
    target = pixels @ weight.T
    tiny = torch.finfo(torch.float32).tiny

    def loss(alpha: Tensor) -> Tensor:
        low, high = ((extreme / alpha) for extreme in extremes)
        low, high = low.min().clamp_max(0), high.max().clamp_min(0)
        scale = ((high - low) / steps).clamp_min(tiny)
        zero = (-low / scale).round()
        read = ((pixels / (alpha * scale)).round() + zero).clamp(0, steps) - zero
        scaled = weight * alpha
        unit = (scaled.abs().amax(dim=1, keepdim=True) / (half - 0.5)).clamp_min(tiny)
        rounded = (scaled / unit).round().clamp(-half, half - 1)
        return ((read * scale) @ (rounded * unit).T - target).square().mean()

    return loss


def _descend(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The best of the points that Adam comes by on its way from `start`."""
    with torch.enable_grad():
        alpha = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([alpha], lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        best, least = start, torch.inf
        for _ in range(_STEPS):
            found = loss(alpha)
            value = found.item()
            if value < least:
                best, least = alpha.detach().clone(), value
            optimizer.zero_grad()
            found.backward()  # pyright: ignore[reportUnknownMemberType]  # torch leaves it untyped
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                alpha.clamp_(min=_SMALLEST)
    return best


def _silu_minimum(network: QuantizedNetwork, operator: Operator) -> float | None:
    """Where the range of a depthwise convolution behind SiLU begins."""
    if not isinstance(operator, Convolution) or not operator.is_depthwise:
        return None
    producer = network.producer((operator.name, 0))
    if not isinstance(producer, Activation) or producer.function != "silu":
        return None
    return lowest_value(producer)


def _is_pointwise(operator: Operator | None) -> bool:
    if not isinstance(operator, Convolution) or operator.weight is None:
        return False
    return operator.groups == 1 and operator.weight.shape[2:].numel() == 1


def _expands(operator: Operator | None) -> bool:
    return (
        operator is not None
        and operator.weight is not None
        and len(operator.weight) > operator.weight.shape[1]
    )


HYQ = Method(
    name="hyq",
    calibrate=calibrate,
    title="inputs of inverted residuals' 1×1 convolutions scaled channel by channel",
    source="HyQ (IDSL-SeoulTech), as its program is described",
    integer=True,
)
