from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pocketvit.core.errors import ConfigError
from pocketvit.quantization import QuantizationSpec, capture, quantize
from pocketvit.quantization.mixed import (
    WeightBudget,
    _cheapest_widths,
    choose_bits,
    describe_widths,
    float_bytes,
    packed_bytes,
    weight_errors,
)

WIDTHS = (4, 6, 8)


class Three(nn.Module):
    """Three operators with weights, of very different size and effect."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2)
        self.third = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def three():
    torch.manual_seed(3)
    return capture(Three().eval(), size=16)


def weights_of(network, spec) -> dict[str, int]:
    return {name: network.operator(name).weight.numel() for name in spec.bits}


def average(network, spec) -> float:
    counts = weights_of(network, spec)
    return sum(spec.weight_bits(name) * n for name, n in counts.items()) / sum(counts.values())


@pytest.mark.parametrize("budget", [4.0, 4.7, 5.5, 6.0, 7.3, 8.0])
def test_the_choice_is_the_best_of_all(three, calibration, budget) -> None:
    spec = choose_bits(three, calibration, QuantizationSpec(), average_weight_bits=budget)
    operators = [three.operator(name) for name in ("first", "second", "third")]
    errors = weight_errors(three, calibration, operators, WIDTHS)
    counts = {o.name: o.weight.numel() for o in operators}
    allowed = budget * sum(counts.values())
    best = min(
        sum(errors[o][w] for o, w in zip(counts, widths, strict=True))
        for widths in itertools.product(WIDTHS, repeat=3)
        if sum(counts[o] * w for o, w in zip(counts, widths, strict=True)) <= allowed
    )
    assert sum(errors[name][bits.weights] for name, bits in spec.bits.items()) == pytest.approx(best)
    assert average(three, spec) <= budget


def test_errors_are_those_of_the_network_with_one_operator_rounded(three, calibration) -> None:
    operator = three.operator("second")
    errors = weight_errors(three, calibration, [operator], (8, 4))
    assert list(errors) == ["second"]
    assert 0 < errors["second"][8] < errors["second"][4]
    assert operator.weight_quantizer is None, "measuring must leave the network as it was"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_budget_is_kept_and_the_optimum_found(data) -> None:
    size = data.draw(st.integers(1, 4))
    counts = {str(i): data.draw(st.integers(1, 3000)) for i in range(size)}
    errors = {name: {bits: data.draw(st.floats(0, 10)) for bits in WIDTHS} for name in counts}
    total = sum(counts.values())
    budget = data.draw(st.integers(4 * total, 9 * total))
    chosen = _cheapest_widths(errors, counts, budget)
    spent = sum(counts[name] * bits for name, bits in chosen.items())
    assert spent <= budget
    best = min(
        sum(errors[name][w] for name, w in zip(counts, widths, strict=True))
        for widths in itertools.product(WIDTHS, repeat=size)
        if sum(n * w for n, w in zip(counts.values(), widths, strict=True)) <= max(spent, budget * 0.999 - 4)
    )
    assert sum(errors[name][bits] for name, bits in chosen.items()) <= best + 1e-9


def test_rounding_of_sizes_never_makes_the_smallest_widths_impossible() -> None:
    counts = {str(i): 10_000 + 7 * i for i in range(60)}
    errors = {name: {4: 1.0, 8: 0.0} for name in counts}
    assert set(_cheapest_widths(errors, counts, 4 * sum(counts.values())).values()) == {4}


def test_size_budget(three, calibration) -> None:
    spec = QuantizationSpec()
    whole = packed_bytes(three, spec)
    assert float_bytes(three) == 4 * sum(p.numel() for p in three.parameters())
    # weights in bytes, biases and scales of output channels in four
    assert whole == 8 * 27 + 16 * 72 + 5 * 16 + 4 * (8 + 16 + 5) + 4 * (8 + 16 + 5)
    mixed = choose_bits(three, calibration, spec, size_bytes=round(0.75 * whole))
    assert packed_bytes(three, mixed) <= round(0.75 * whole)
    assert {b.weights for b in mixed.bits.values()} != {4}, "what the budget leaves should be used"
    assert set(choose_bits(three, calibration, spec, size_bytes=whole).bits) == {"first", "second", "third"}


def test_the_widths_are_used(three, calibration) -> None:
    spec = choose_bits(three, calibration, QuantizationSpec(method="minmax"), average_weight_bits=5)
    network = quantize(three, spec, calibration)
    for name, bits in spec.bits.items():
        operator = network.operator(name)
        assert operator.weight_quantizer.bits == bits.weights
        assert operator.input_quantizers[0].bits == 8
    assert spec.label == "W8A8*"


def test_kept_operators_have_no_width(three, calibration) -> None:
    spec = choose_bits(three, calibration, QuantizationSpec(keep_float=("first",)), average_weight_bits=6)
    assert set(spec.bits) == {"second", "third"}


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"average_weight_bits": 3.9}, "less than the smallest width, 4"),
        ({"size_bytes": 100}, "still has 9"),
        ({}, "either an average width or a size"),
        ({"average_weight_bits": 6, "size_bytes": 5}, "either an average width or a size"),
    ],
)
def test_impossible_budgets(three, calibration, budget, words) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_bits(three, calibration, QuantizationSpec(), **budget)


def test_nothing_to_choose_and_wrong_widths(three, calibration) -> None:
    with pytest.raises(ConfigError, match="no widths to choose"):
        choose_bits(three, calibration, QuantizationSpec(keep_float=("*",)), average_weight_bits=6)
    with pytest.raises(ConfigError, match="9 bits are not supported"):
        choose_bits(three, calibration, QuantizationSpec(), average_weight_bits=6, candidates=(4, 9))


@pytest.mark.parametrize("size", ["0.2x", "0.2 ×", "1k"])
def test_sizes_as_they_are_written(three, calibration, size) -> None:
    limit = 1000 if size == "1k" else int(0.2 * float_bytes(three))
    spec = WeightBudget(size=size).choose(three, calibration, QuantizationSpec())
    assert spec == choose_bits(three, calibration, QuantizationSpec(), size_bytes=limit)
    assert packed_bytes(three, spec) <= limit


def test_average_as_it_is_written(three, calibration) -> None:
    spec = WeightBudget(average_bits=6.5).choose(three, calibration, QuantizationSpec())
    assert average(three, spec) <= 6.5


def test_a_part_that_is_too_small(three, calibration) -> None:
    with pytest.raises(ConfigError, match="still has"):
        WeightBudget(size="0x").choose(three, calibration, QuantizationSpec())


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"size": "a fifth"}, "is not a count"),
        ({"average_bits": float("nan")}, "nan bits is no budget"),
        ({}, "either an average width or a size"),
        ({"average_bits": 6, "size": "1k"}, "either an average width or a size"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused_before_any_work(budget, words) -> None:
    with pytest.raises(ConfigError, match=words):
        WeightBudget(**budget)


def test_what_is_told_of_the_widths(three, calibration) -> None:
    budget = WeightBudget(average_bits=5)
    spec = budget.choose(three, calibration, QuantizationSpec(activations=6))
    found = describe_widths(three, spec, budget)
    assert found["budget"] == {"average_bits": 5, "size": None}
    assert found["average_bits"] == pytest.approx(average(three, spec), abs=1e-4)
    assert {row["operator"]: row["bits"] for row in found["operators"]} == {
        name: bits.weights for name, bits in spec.bits.items()
    }
    assert {row["operator"]: row["weights"] for row in found["operators"]} == weights_of(three, spec)
    assert {bits.activations for bits in spec.bits.values()} == {6}
    assert found["packed_bytes"] == packed_bytes(three, spec)
    assert found["int8_bytes"] == packed_bytes(three, QuantizationSpec())
    assert found["float_bytes"] == float_bytes(three)
