from __future__ import annotations

import pytest
import torch

from pocketvit.quantization import QuantizationSpec, quantize
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.remedies import Remedy, best_remedy, remedies
from pocketvit.quantization.sensitivity import visits


def of(**gains: float) -> tuple[Remedy, ...]:
    return tuple(Remedy(action=name.replace("_", " "), gain=gain) for name, gain in gains.items())


@pytest.mark.parametrize(
    ("tried", "expected"),
    [
        (of(keep_in_float=0.04, whole_range=0.01), None),
        (of(keep_in_float=0.5, whole_range=0.2), "keep in float"),
        (of(keep_in_float=0.5, whole_range=0.41), "whole range"),
        (of(keep_in_float=0.5, whole_range=0.41, range_a_channel=0.6), "range a channel"),
        (of(keep_in_float=-0.5), None),
        ((), None),
    ],
)
def test_integers_are_preferred_where_they_do(tried, expected) -> None:
    found = best_remedy(tried)
    assert (found.action if found else None) == expected


def tried_on(tiny, calibration, name, change=None, **settings):
    network = quantize(tiny, QuantizationSpec(method="minmax", **settings), calibration)
    if change is not None:
        change(network.operator(name))
    visit = next(v for v in visits(network, calibration.images) if v.operator.name == name)
    wanted = tiny.operator(name).compute(visit.inputs, tiny.operator(name).weight)

    def gain(other) -> float:
        with torch.no_grad():
            error, before = ((o(*visit.inputs) - wanted).square().mean() for o in (other, visit.operator))
        return float((before - error) / before)

    return {remedy.action: remedy.gain for remedy in remedies(visit, tiny.operator(name), gain)}


def test_only_what_makes_a_difference_is_tried(tiny, calibration) -> None:
    assert set(tried_on(tiny, calibration, "gate")) == {"keep in float"}
    assert set(tried_on(tiny, calibration, "gate", weights=6)) == {"keep in float", "8 bits"}
    assert set(tried_on(tiny, calibration, "depthwise")) == {"keep in float", "range a channel"}


def test_every_remedy_brings_its_operator_nearer_to_float(tiny, calibration) -> None:
    def ruin(operator) -> None:
        operator.set_input(0, UniformQuantizer(scale=torch.tensor(0.02), qmin=-8, qmax=7, axis=None))

    found = tried_on(tiny, calibration, "depthwise", ruin, weights=4, activations=4)
    assert set(found) == {"keep in float", "8 bits", "whole range", "asymmetric", "range a channel"}
    assert found["keep in float"] == pytest.approx(1)
    assert all(gain > 0.3 for gain in found.values()), found
    assert found["8 bits"] > max(found["whole range"], found["asymmetric"])
