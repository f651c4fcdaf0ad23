"""Why a quantized network lost accuracy: what the integers of each operator do to numbers and answers."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pocketvit.core.console import progress_bar
from pocketvit.quantization.calibration import Calibration
from pocketvit.quantization.equalization import equalize_like
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Norm, Operator
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer
from pocketvit.quantization.ranges import by_channel
from pocketvit.quantization.remedies import Remedy, best_remedy, remedies
from pocketvit.quantization.reparameterize import shift_norm_outputs
from pocketvit.quantization.sensitivity import LogitError, Visit, logit_error, visits

__all__ = ["Diagnosis", "OperandReport", "OperatorReport", "diagnose", "signal_to_noise"]

_IMAGES = 16
_WORST = 10
_MATTERS = 0.01
"""Share of the summed errors below which nothing is tried on an operator: what helped would be chance."""

_EXACT = 0.01
"""Share of the quantized network's error up to which its float state counts as exact; biases are rounded."""


@dataclass(frozen=True, kw_only=True)
class OperandReport:
    """One tensor that an operator rounds to integers.

    Attributes:
        what: `input 0`, `weights` or `output`.
        bits: of its quantizer.
        scheme: `asymmetric`, `symmetric`, or the kind of a quantizer that is not evenly spaced.
        granularity: `tensor`, `channel`, or `dimension` and its number, for one range each.
        seen: smallest and largest number before rounding, in the quantized network.
        covered: smallest and largest number that the quantizer can represent.
        clipped: share of the numbers that lie outside by more than half a step.
        overflowing: share of the ranges whose zero point lies outside the integers, so that their numbers
            are lost or no integer kernel executes them.
        before_db: signal-to-noise ratio before this rounding, 10 log₁₀(Σ x² / Σ (x − x̂)²) with x of the float
            network: the noise is what earlier operators left. `None` without noise or without signal.
        after_db: the same behind the rounding.
    """

    what: str
    bits: int
    scheme: str
    granularity: str
    seen: tuple[float, float]
    covered: tuple[float, float]
    clipped: float
    overflowing: float
    before_db: float | None
    after_db: float | None


@dataclass(frozen=True, kw_only=True)
class OperatorReport:
    """One operator of the network.

    Attributes:
        name: as `--keep-float` takes it.
        kind: `convolution`, `linear` and so on.
        operands: what it rounds; empty if it stayed in float.
        output_db: signal-to-noise ratio of what it returns in the quantized network.
        error: of the logits, relative and squared, when this operator alone is quantized.
        changed: share of the images whose class changes then.
        share: of the summed errors of all operators.
        remedies: what was tried on the operators that matter most, with what came of it.
        suggestion: the one to choose, or `None` where nothing helps enough.
    """

    name: str
    kind: str
    operands: tuple[OperandReport, ...]
    output_db: float | None
    error: float
    changed: float
    share: float
    remedies: tuple[Remedy, ...] = ()
    suggestion: Remedy | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What quantization does to a network, operator by operator.

    Attributes:
        images: how many were looked at.
        error: of the logits of the whole quantized network, relative and squared.
        changed: share of the images whose class changes.
        operators: every one, in order.
        keep_float: operators that are suggested to stay in float.
        error_kept: error of the whole network with those in float; `None` if there are none.
    """

    images: int
    error: float
    changed: float
    operators: tuple[OperatorReport, ...]
    keep_float: tuple[str, ...]
    error_kept: float | None

    def to_dict(self) -> dict[str, Any]:
        """As in `quantization.json`."""
        return asdict(self)


def diagnose(
    network: QuantizedNetwork, calibration: Calibration, *, reference: QuantizedNetwork, worst: int = _WORST
) -> Diagnosis:
    """Every operator's ranges, noise and effect on the answers; for the worst, what would help.

    An operator's sensitivity is the error of the logits when the rest of the network computes in float. A
    remedy is measured the other way round: on the operator alone, with the rest of the network quantized.
    Sixteen images of the calibration are looked at.

    Args:
        network: quantized.
        reference: the float network that it was quantized from.
        worst: for how many operators remedies are tried.
    """
    images = _few(calibration.images)
    with torch.no_grad():
        wanted = reference(images)
        whole = logit_error(network(images), wanted)
        real = _counterpart(network, reference, images, whole)
        undisturbed = real(images)
    with progress_bar() as bar:
        pairs = bar.track(
            zip(visits(real, images), visits(network, images), strict=True),
            description="diagnosing",
            total=len(network.operators),
        )
        reports = [_report(float_visit, visit, undisturbed) for float_visit, visit in pairs]
    total = sum(report.error for report in reports)
    reports = [replace(r, share=r.error / total if total else 0.0) for r in reports]
    tried = _remedies(network, real, images, wanted, whole, _worst(reports, worst))
    reports = [
        replace(r, remedies=tried[r.name], suggestion=best_remedy(tried[r.name])) if r.name in tried else r
        for r in reports
    ]
    kept = tuple(
        r.name for r in reports if r.suggestion is not None and r.suggestion.action == "keep in float"
    )
    return Diagnosis(
        images=len(images),
        error=whole.error,
        changed=whole.changed,
        operators=tuple(reports),
        keep_float=kept,
        error_kept=_error_kept(network, real, kept, images, wanted) if kept else None,
    )


def signal_to_noise(wanted: Tensor, found: Tensor) -> float | None:
    """10 log₁₀(Σ x² / Σ (x − x̂)²) in decibels; `None` where there is no noise or no signal."""
    signal = wanted.double().square().sum()
    noise = (wanted.double() - found.double()).square().sum()
    return float(10 * (signal / noise).log10()) if noise > 0 and signal > 0 else None


def _few(images: Tensor) -> Tensor:
    """Images from all over the calibration set, whose images may be in the order of their classes."""
    places = torch.linspace(0, len(images) - 1, min(_IMAGES, len(images)))
    return images[places.round().long()]


def _counterpart(
    network: QuantizedNetwork, reference: QuantizedNetwork, images: Tensor, whole: LogitError
) -> QuantizedNetwork:
    """The float network whose operators read and return numbers in the units of the quantized network's.

    It is the reference with its channels equalized as the method's, and the scales of norms where the method
    has moved them. Where weights differ further, the method has either corrected them, which leaves the
    units, or moved scales between other operators, which leaves the network exact once it is switched to
    float.
    """
    moved = copy.deepcopy(reference)
    equalize_like(moved, network)
    for name, operator in moved.operators.items():
        other = network.operator(name)
        if isinstance(operator, Norm) and isinstance(other, Norm):
            _move_norm(moved, operator, other)
    if all(_same_weight(o, network.operator(name)) for name, o in moved.operators.items()):
        return moved
    own = copy.deepcopy(network)
    for operator in own.operators.values():
        operator.quantized = False
    exact = logit_error(own(images), reference(images)).error <= _EXACT * whole.error
    return own if exact else moved


def _same_weight(operator: Operator, other: Operator) -> bool:
    if operator.weight is None or other.weight is None:
        return operator.weight is other.weight
    return torch.allclose(operator.weight, other.weight, rtol=1e-4, atol=0)


def _move_norm(network: QuantizedNetwork, norm: Norm, other: Norm) -> None:
    """Give `norm` the scale and shift of `other`, and its readers what makes up for it."""
    (old, old_shift), (new, new_shift) = _affine(norm), _affine(other)
    if torch.equal(old, new) and torch.equal(old_shift, new_shift):
        return
    ratio = torch.where(new == 0, 1.0, old / new)
    shift_norm_outputs(network, norm, ratio, old_shift - new_shift * ratio)


def _affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Scale and shift, (channels,) each, in double precision."""
    ones = torch.ones(norm.channels, dtype=torch.float64)
    return (
        ones if norm.weight is None else norm.weight.double(),
        torch.zeros_like(ones) if norm.bias is None else norm.bias.double(),
    )


def _report(real: Visit, visit: Visit, undisturbed: Tensor) -> OperatorReport:
    operator = visit.operator
    alone = LogitError(0.0, 0.0)
    operands: tuple[OperandReport, ...] = ()
    if operator.quantized and operator.has_quantizers:
        with torch.no_grad():
            alone = logit_error(real.logits_with(operator(*real.inputs)), undisturbed)
            operands = tuple(_operands(real, visit))
    return OperatorReport(
        name=operator.name,
        kind=operator.kind,
        operands=operands,
        output_db=signal_to_noise(real.output, visit.output),
        error=alone.error,
        changed=alone.changed,
        share=0.0,
    )


def _operands(real: Visit, visit: Visit) -> list[OperandReport]:
    operator = visit.operator
    found = [
        _operand(f"input {index}", quantizer, x, wanted=wanted, axis=operator.channel_axis(x))
        for index, (quantizer, x, wanted) in enumerate(
            zip(operator.input_quantizers, visit.inputs, real.inputs, strict=True)
        )
        if quantizer is not None
    ]
    weight, exact = operator.weight, real.operator.weight
    if operator.weight_quantizer is not None and weight is not None and exact is not None:
        axis = operator.weight_axis
        found.append(_operand("weights", operator.weight_quantizer, weight, wanted=exact, axis=axis))
    if operator.output is not None:
        result = operator.compute(operator.quantized_inputs(visit.inputs), operator.quantized_weight())
        axis = operator.output_axis(result)
        found.append(_operand("output", operator.output, result, wanted=real.output, axis=axis))
    return found


def _operand(what: str, quantizer: Quantizer, x: Tensor, *, wanted: Tensor, axis: int) -> OperandReport:
    low, high = x.aminmax()
    uniform = isinstance(quantizer, UniformQuantizer)
    if uniform:
        reach = (float(quantizer.low.min()), float(quantizer.high.max()))
        zero = quantizer.zero_point
        overflowing = float(((zero < quantizer.qmin) | (zero > quantizer.qmax)).double().mean())
    else:
        ends = quantizer(torch.stack((low.clamp_max(0), high)) * 1e6)
        reach, overflowing = (float(ends.min()), float(ends.max())), 0.0
    return OperandReport(
        what=what,
        bits=quantizer.bits,
        scheme=quantizer.scheme if uniform else type(quantizer).__name__.removesuffix("Quantizer").lower(),
        granularity=_granularity(quantizer, x, axis),
        seen=(float(low), float(high)),
        covered=reach,
        clipped=_clipped(quantizer, x, reach),
        overflowing=overflowing,
        before_db=signal_to_noise(wanted, x),
        after_db=signal_to_noise(wanted, quantizer(x)),
    )


def _granularity(quantizer: Quantizer, x: Tensor, axis: int) -> str:
    own = quantizer.axis if isinstance(quantizer, UniformQuantizer) else None
    if own is None:
        return "tensor"
    return "channel" if own % x.dim() == axis else f"dimension {own % x.dim()}"


def _clipped(quantizer: Quantizer, x: Tensor, reach: tuple[float, float]) -> float:
    if not isinstance(quantizer, UniformQuantizer):
        return float(((x < reach[0]) | (x > reach[1])).double().mean())
    rows = by_channel(x, quantizer.axis)
    half = quantizer.scale.reshape(-1, 1) / 2
    low, high = quantizer.low.reshape(-1, 1) - half, quantizer.high.reshape(-1, 1) + half
    return float(((rows < low) | (rows > high)).double().mean())


def _worst(reports: list[OperatorReport], count: int) -> set[str]:
    ranked = sorted((r for r in reports if r.operands), key=lambda r: -r.error)
    return {report.name for report in ranked[:count] if report.share >= _MATTERS}


def _remedies(
    network: QuantizedNetwork,
    real: QuantizedNetwork,
    images: Tensor,
    wanted: Tensor,
    whole: LogitError,
    names: set[str],
) -> dict[str, tuple[Remedy, ...]]:
    found: dict[str, tuple[Remedy, ...]] = {}
    for visit in visits(network, images):
        name = visit.operator.name
        if name in names:

            def gain(other: Operator, visit: Visit = visit) -> float:
                with torch.no_grad():
                    error = logit_error(visit.logits_with(other(*visit.inputs)), wanted).error
                return (whole.error - error) / whole.error if whole.error else 0.0

            found[name] = remedies(visit, real.operator(name), gain)
    return found


def _error_kept(
    network: QuantizedNetwork, real: QuantizedNetwork, names: tuple[str, ...], images: Tensor, wanted: Tensor
) -> float:
    kept = copy.deepcopy(network)
    for name in names:
        kept.replace(kept.operator(name), copy.deepcopy(real.operator(name)))
    with torch.no_grad():
        return logit_error(kept(images), wanted).error
