"""Mixed precision: the width of each operator's weights that loses least within a budget.

Each operator's weights are rounded alone to each width, the rest of the network computing in float, and the
error is measured at the logits. The errors of operators are taken to add up; then the best widths are those
of a knapsack problem with one choice an operator, which is solved exactly, up to the rounding of sizes.

The budget is of the integers themselves, packed: integer kernels of ONNX Runtime and OpenVINO hold each
weight in a byte whatever its width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from pocketvit.core.config import parse_count
from pocketvit.core.console import progress_bar
from pocketvit.core.errors import ConfigError
from pocketvit.quantization.calibration import Calibration, check_finite
from pocketvit.quantization.correction import least_error_weights
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Convolution, Linear, Operator
from pocketvit.quantization.quantize import operators_to_quantize
from pocketvit.quantization.quantizers import check_bits
from pocketvit.quantization.sensitivity import logit_error, visits
from pocketvit.quantization.spec import OperatorBits, QuantizationSpec

__all__ = ["WeightBudget", "choose_bits", "describe_widths", "float_bytes", "packed_bytes", "weight_errors"]

_PART = re.compile(r"\s*(\d*\.?\d+)\s*[x×]\s*")
"""A size as a part of float32's, such as `0.2x`."""

_IMAGES = 16
_UNITS = 20_000
"""Into how many parts the budget is divided; sizes are rounded up to whole ones, so it is never exceeded."""


@dataclass(frozen=True, kw_only=True)
class WeightBudget:
    """A budget as a user writes it; one of the two is given.

    Attributes:
        average_bits: bits a quantized weight on average.
        size: of all parameters, in bytes such as `250k`, or as a part of float32's such as `0.2x`.

    Raises:
        ConfigError: none or both are given, or what is given cannot be read.
    """

    average_bits: float | None = None
    size: str | None = None

    def __post_init__(self) -> None:
        if (self.average_bits is None) == (self.size is None):
            raise ConfigError("Give either an average width or a size, not both.")
        if self.average_bits is not None and not math.isfinite(self.average_bits):
            raise ConfigError(
                f"An average of {self.average_bits} bits is no budget.", fix="Such as 6 or 5.5."
            )
        if self.size is not None and not _PART.fullmatch(self.size):
            parse_count(self.size)

    def choose(
        self, network: QuantizedNetwork, calibration: Calibration, spec: QuantizationSpec
    ) -> QuantizationSpec:
        """`spec` with the widths of `choose_bits` within this budget.

        Raises:
            ConfigError: a budget that `choose_bits` refuses.
            DataError: the network computes numbers that are not finite.
        """
        size = None if self.size is None else _bytes(self.size, network)
        return choose_bits(network, calibration, spec, average_weight_bits=self.average_bits, size_bytes=size)


def choose_bits(
    network: QuantizedNetwork,
    calibration: Calibration,
    spec: QuantizationSpec,
    *,
    average_weight_bits: float | None = None,
    size_bytes: int | None = None,
    candidates: Sequence[int] = (4, 6, 8),
) -> QuantizationSpec:
    """`spec` with a width for the weights of each operator that it quantizes; activations keep theirs.

    Args:
        network: in float.
        average_weight_bits: at most so many bits a quantized weight on average.
        size_bytes: at most so many bytes in all, see `packed_bytes`. One of the two is given.
        candidates: widths to choose from.

    Raises:
        ConfigError: no budget or two, an unsupported width, or a budget below all weights at the
            smallest width.
        DataError: the network computes numbers that are not finite.
    """
    if (average_weight_bits is None) == (size_bytes is None):
        raise ConfigError("Give either an average width or a size, not both.")
    widths = sorted(set(candidates))
    for bits in widths:
        check_bits(bits)
    operators = [o for o in operators_to_quantize(network, spec) if isinstance(o, Convolution | Linear)]
    counts = {operator.name: _count(operator) for operator in operators}
    if size_bytes is None:
        assert average_weight_bits is not None
        budget = average_weight_bits * sum(counts.values())
    else:
        budget = 8.0 * (size_bytes - _fixed_bytes(network, operators))
    _check_budget(network, operators, budget, widths, as_size=size_bytes is not None)
    check_finite(network, calibration)
    errors = weight_errors(network, calibration, operators, widths)
    chosen = _cheapest_widths(errors, counts, int(budget))
    bits = {
        name: OperatorBits(weights=width, activations=spec.activation_bits(name))
        for name, width in chosen.items()
    }
    return spec.model_copy(update={"bits": {**spec.bits, **bits}})


def packed_bytes(network: QuantizedNetwork, spec: QuantizationSpec) -> int:
    """Size of all parameters if weights were packed: those quantized at their widths, the rest 4 bytes each.

    Scales of output channels are counted, 4 bytes each.
    """
    operators = [o for o in operators_to_quantize(network, spec) if isinstance(o, Convolution | Linear)]
    bits = sum(_count(operator) * spec.weight_bits(operator.name) for operator in operators)
    return _fixed_bytes(network, operators) + -(-bits // 8)


def describe_widths(
    network: QuantizedNetwork, spec: QuantizationSpec, budget: WeightBudget
) -> dict[str, Any]:
    """The widths that were chosen within a budget, for `quantization.json`.

    Args:
        network: in float.
        spec: as `budget.choose` returned it.
    """
    counts = {name: _count(network.operator(name)) for name in spec.bits}
    spent = sum(counts[name] * bits.weights for name, bits in spec.bits.items())
    eight = {name: bits.model_copy(update={"weights": 8}) for name, bits in spec.bits.items()}
    return {
        "budget": asdict(budget),
        "average_bits": round(spent / sum(counts.values()), 4),
        "packed_bytes": packed_bytes(network, spec),
        "int8_bytes": packed_bytes(network, spec.model_copy(update={"bits": eight})),
        "float_bytes": float_bytes(network),
        "operators": [
            {"operator": name, "weights": counts[name], "bits": bits.weights}
            for name, bits in spec.bits.items()
        ],
    }


def float_bytes(network: QuantizedNetwork) -> int:
    """Size of all parameters in float32."""
    return 4 * sum(parameter.numel() for parameter in network.parameters())


def weight_errors(
    network: QuantizedNetwork,
    calibration: Calibration,
    operators: Sequence[Operator],
    widths: Sequence[int],
) -> dict[str, dict[int, float]]:
    """Relative squared error of the logits with one operator's weights rounded, by name and width.

    More bits never count as worse: an error found at one width is a bound for all greater ones, since what
    is measured beyond it is the luck of a few images.
    """
    images, chosen = calibration.images[:_IMAGES], set(operators)
    errors: dict[str, dict[int, float]] = {}
    with torch.no_grad(), network.only([]), progress_bar() as bar:
        wanted: Tensor = network(images)
        track = bar.track(
            visits(network, images), description="measuring widths", total=len(network.operators)
        )
        for visit in track:
            operator = visit.operator
            if operator not in chosen or not isinstance(operator, Convolution | Linear):
                continue
            (read,) = visit.inputs
            found: list[float] = []
            for bits in sorted(widths):
                quantizer = least_error_weights(operator, read, bits=bits)
                weight = operator.weight
                assert weight is not None
                result = operator.compute([read], quantizer(weight))
                found.append(logit_error(visit.logits_with(result), wanted).error)
            errors[operator.name] = dict(zip(sorted(widths), accumulate(found, min), strict=True))
    return errors


def _cheapest_widths(
    errors: Mapping[str, Mapping[int, float]], counts: Mapping[str, int], budget: int
) -> dict[str, int]:
    """The width of each operator with the least summed error within `budget` bits.

    Dynamic programming over what the budget leaves beyond the smallest widths: `least[b]` is the least error
    of the operators so far within b units of it.
    """
    smallest = min(bits for of_width in errors.values() for bits in of_width)
    spare = budget - smallest * sum(counts[name] for name in errors)
    unit = max(1, spare // _UNITS)

    def cost(name: str, bits: int) -> int:
        return -(-counts[name] * (bits - smallest) // unit)

    least = torch.zeros(spare // unit + 1, dtype=torch.float64)
    picked: list[tuple[str, Tensor]] = []
    for name, of_width in errors.items():
        options = [_shifted(least, cost(name, bits)) + error for bits, error in of_width.items()]
        least, choice = torch.stack(options).min(dim=0)
        picked.append((name, choice))
    left = len(least) - 1
    chosen: dict[str, int] = {}
    for name, choice in reversed(picked):
        chosen[name] = list(errors[name])[int(choice[left])]
        left -= cost(name, chosen[name])
    return {name: chosen[name] for name in errors}


def _shifted(least: Tensor, units: int) -> Tensor:
    """What is possible when so many units are spent; infinite error where there are not that many."""
    moved = torch.full_like(least, torch.inf)
    if units < len(least):
        moved[units:] = least[: len(least) - units]
    return moved


def _bytes(size: str, network: QuantizedNetwork) -> int:
    part = _PART.fullmatch(size)
    return int(float(part[1]) * float_bytes(network)) if part else parse_count(size)


def _check_budget(
    network: QuantizedNetwork,
    operators: Sequence[Operator],
    budget: float,
    widths: Sequence[int],
    *,
    as_size: bool,
) -> None:
    weights = sum(_count(operator) for operator in operators)
    if not operators:
        raise ConfigError("No operator with weights is quantized, so there are no widths to choose.")
    smallest = widths[0] * weights
    if budget >= smallest:
        return
    if as_size:
        least = _fixed_bytes(network, operators) + -(-smallest // 8)
        raise ConfigError(
            f"With every weight at {widths[0]} bits the network still has {least:,} bytes.",
            fix="Raise the budget, allow smaller widths, or choose a smaller model.",
        )
    raise ConfigError(
        f"An average of {budget / weights:g} bits is less than the smallest width, {widths[0]}.",
        fix="Raise the average or allow smaller widths.",
    )


def _count(operator: Operator) -> int:
    assert operator.weight is not None
    return operator.weight.numel()


def _fixed_bytes(network: QuantizedNetwork, operators: Sequence[Operator]) -> int:
    """What widths do not change: biases, norms, weights left in float, scales of output channels."""
    scales = sum(operator.weight.shape[0] for operator in operators if operator.weight is not None)
    return float_bytes(network) - 4 * sum(_count(o) for o in operators) + 4 * scales
