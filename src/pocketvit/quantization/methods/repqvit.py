"""RepQ-ViT: quantize for accuracy first, then change the network so that simple quantizers do the same.

1. What a norm returns gets a scale s and zero point z for each channel.
2. With s̄ and z̄ their means, r = s / s̄ and b = s (z̄ − z), the norm is changed to return (y − b) / r, and the
   linear maps that read it to expect that. One scale and zero point for all channels, s̄ and z̄, now round
   it just as the many did before.
3. What softmax returns is rounded to powers of √2.
4. Everything else gets the range, among the central 99.9 %, 99.99 % and 99.999 %, of least squared error, and
   weights one for each output channel.

As for hybrids: any norm is changed whose readers all are linear maps or 1×1 convolutions, also behind a mean
over tokens; convolutions read the width that was asked for, where the authors' program gives them 8 bits;
the range of sums, products and, under full scope, of norms and activation functions is found like all others.
z̄ is moved into the range of the integers, which costs nothing as b follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization import ranges
from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.logarithmic import LogarithmicQuantizer
from pocketvit.quantization.methods.method import Calibrate, Method
from pocketvit.quantization.network import Operand, QuantizedNetwork
from pocketvit.quantization.operators import MatMul, Norm, Operator, Softmax
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer, check_bits
from pocketvit.quantization.reparameterize import norms_with_linear_readers, shift_norm_outputs
from pocketvit.quantization.spec import QuantizationSpec

__all__ = [
    "REPQVIT",
    "REPQVIT_INTEGER",
    "asymmetric",
    "central_range",
    "equalize_norms",
    "powers_of_root_two",
]

SHARES = (0.999, 0.9999, 0.99999)
"""Of the numbers that a range may be made to cover."""

_NARROWEST = 2.0**-10
"""The smallest scale of a channel, in mean scales: a channel that never varies still gets one."""

_ZERO_POINT_LIMIT = 2**15
"""Zero points are 16 bits wide."""

Grid = Callable[..., UniformQuantizer]
"""`(low, high, *, bits, axis)`: the quantizer for a range."""


def _reparameterized(*, weights: Grid, activations: Grid, attention: Callable[..., Quantizer]) -> Calibrate:
    """The method, with quantizers of these kinds for weights, activations, and what softmax returns."""

    def calibrate(
        network: QuantizedNetwork,
        operators: Sequence[Operator],
        calibration: Calibration,
        spec: QuantizationSpec,
    ) -> None:
        shared = equalize_norms(network, operators, calibration, spec)
        found = samples(network, calibration, operators)
        with progress_bar() as bar:
            for operator, sample in bar.track(found, total=len(operators), description="ranges"):
                _quantize_weight(operator, spec, weights)
                for index, x in enumerate(sample.inputs):
                    bits = spec.activation_bits(operator.name)
                    operand = (operator.name, index)
                    if operand in shared:
                        same = shared[operand]
                        quantizer = UniformQuantizer.from_range(same.low, same.high, bits=bits)
                    elif isinstance(operator, MatMul) and _is_softmax(network, operand):
                        quantizer = attention(x, bits=bits)
                    else:
                        quantizer = central_range(x, bits=bits, grid=activations)
                    operator.set_input(index, quantizer)

    return calibrate


def equalize_norms(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    calibration: Calibration,
    spec: QuantizationSpec,
) -> dict[Operand, UniformQuantizer]:
    """Change norms and the linear maps that read them so that all channels fit one scale and zero point.

    Returns:
        The quantizer of each operand that reads such a norm.
    """
    chosen = set(operators)
    norms = {
        norm: readers
        for norm, readers in norms_with_linear_readers(network).items()
        if chosen.issuperset(readers)
    }
    grids: dict[Norm, UniformQuantizer] = {}
    for norm, sample in samples(network, calibration, list(norms)):
        assert isinstance(norm, Norm)
        bits = max(spec.activation_bits(reader.name) for reader in norms[norm])
        axis = norm.channel_axis(sample.output)
        by_channel = central_range(sample.output, bits=bits, axis=axis, grid=asymmetric)
        grids[norm] = _equalize(network, norm, by_channel)
    return dict(_operands(network, grids))


def _equalize(network: QuantizedNetwork, norm: Norm, by_channel: UniformQuantizer) -> UniformQuantizer:
    scale, zero = by_channel.scale.double(), by_channel.zero_point.double()
    mean_scale = scale.mean()
    narrow = scale < _NARROWEST * mean_scale
    scale = torch.where(narrow, _NARROWEST * mean_scale, scale)
    mean_zero = zero[~narrow].mean().round().clamp(by_channel.qmin, by_channel.qmax)
    zero = torch.where(narrow, mean_zero, zero)
    shift_norm_outputs(network, norm, scale / mean_scale, scale * (mean_zero - zero))
    return UniformQuantizer(
        scale=mean_scale, zero_point=mean_zero, qmin=by_channel.qmin, qmax=by_channel.qmax, axis=None
    )


def _operands(
    network: QuantizedNetwork, grids: Mapping[Norm, UniformQuantizer]
) -> Iterator[tuple[Operand, UniformQuantizer]]:
    for operand in network.sources:
        norm = network.producer(operand)
        if isinstance(norm, Norm) and norm in grids:
            yield operand, grids[norm]


def central_range(x: Tensor, *, bits: int, grid: Grid, axis: int | None = None) -> UniformQuantizer:
    """The range between quantiles 1 − p and p of least squared error, for each channel if `axis` is given."""
    rows = ranges.by_channel(x, axis)
    fit = slice(None) if axis is not None else 0
    best: Tensor | None = None
    low = high = rows.new_zeros(len(rows))
    for share in SHARES:
        below, above = ranges.quantile(rows, 1 - share), ranges.quantile(rows, share)
        error = (grid(below, above, bits=bits, axis=0)(rows) - rows).square().mean(dim=1)
        better = torch.ones_like(error, dtype=torch.bool) if best is None else error < best
        best = error if best is None else torch.where(better, error, best)
        low, high = torch.where(better, below, low), torch.where(better, above, high)
    return grid(low[fit], high[fit], bits=bits, axis=axis)


def asymmetric(low: Tensor, high: Tensor, *, bits: int, axis: int | None = None) -> UniformQuantizer:
    """Unsigned integers for just this range, also where it does not contain 0, with a wide zero point.

    A range so narrow beside its distance from 0 that 16 bits do not hold its zero point is made to contain 0.
    """
    check_bits(bits)
    steps = 2**bits - 1
    low, high = low.double(), high.double()
    far = torch.maximum(low.abs(), high.abs()) * steps > (high - low) * _ZERO_POINT_LIMIT
    low, high = torch.where(far, low.clamp_max(0), low), torch.where(far, high.clamp_min(0), high)
    scale = ((high - low) / steps).clamp_min(torch.finfo(torch.float32).tiny)
    return UniformQuantizer(scale=scale, zero_point=(-low / scale).round(), qmin=0, qmax=steps, axis=axis)


def powers_of_root_two(x: Tensor, *, bits: int) -> LogarithmicQuantizer:
    """Powers of √2 from the quantile, among those of `SHARES`, of least squared error."""
    rows = ranges.by_channel(x, None)
    tried = [
        LogarithmicQuantizer(scale=ranges.quantile(rows, share)[0], bits=bits, steps=2) for share in SHARES
    ]
    return min(tried, key=lambda quantizer: float((quantizer(x) - x).square().mean()))


def _quantize_weight(operator: Operator, spec: QuantizationSpec, grid: Grid) -> None:
    if operator.weight is None or isinstance(operator, Norm):
        return
    bits, axis = spec.weight_bits(operator.name), operator.weight_axis
    operator.weight_quantizer = central_range(operator.weight, bits=bits, axis=axis, grid=grid)


def _is_softmax(network: QuantizedNetwork, operand: Operand) -> bool:
    return isinstance(network.producer(operand), Softmax)


def _symmetric(low: Tensor, high: Tensor, *, bits: int, axis: int | None = None) -> UniformQuantizer:
    return UniformQuantizer.from_range(low, high, bits=bits, scheme="symmetric", axis=axis, narrow=True)


def _central_uniform(x: Tensor, *, bits: int) -> UniformQuantizer:
    return central_range(x, bits=bits, grid=UniformQuantizer.from_range)


REPQVIT = Method(
    name="repqvit",
    calibrate=_reparameterized(weights=asymmetric, activations=asymmetric, attention=powers_of_root_two),
    title="norms reparameterised, attention in powers of √2 (simulated)",
    source="Li et al., arXiv 2212.08254; convolutions read the asked width, not 8 bits",
    integer=False,
)
REPQVIT_INTEGER = Method(
    name="repqvit_integer",
    calibrate=_reparameterized(
        weights=_symmetric, activations=UniformQuantizer.from_range, attention=_central_uniform
    ),
    title="the same with quantizers that integer kernels have: weights symmetric, attention uniform",
    source="Li et al., arXiv 2212.08254, without its log √2 quantizer",
    integer=True,
)
