"""The grid search against trying everything by hand, in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from pocketvit.quantization.calibration import Sample
from pocketvit.quantization.objectives import Cosine, GradientWeighted, SquaredError
from pocketvit.quantization.operators import Convolution
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.search import best_scales, factors, search_input, search_weight

GRID = factors(0.3, 1.2, 19)


@pytest.fixture(params=[1, 4], ids=["dense", "depthwise"])
def case(request):
    random = torch.Generator().manual_seed(0)
    groups = request.param
    operator = Convolution(
        name="c", module="c", weight=torch.randn(4, 4 // groups, 3, 3, generator=random), bias=torch.randn(4),
        stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=groups,
    )  # fmt: skip
    x = torch.randn(3, 4, 6, 6, generator=random) * torch.tensor([1.0, 5, 0.2, 2])[:, None, None]
    output = operator.compute([x], operator.weight)
    return operator, Sample((x,), output), torch.randn(output.shape, generator=random)


def fake(x, scale, bits):
    half = 2 ** (bits - 1)
    return (x.double() / scale).round().clamp(-half, half - 1) * scale


@pytest.mark.parametrize("objective", [SquaredError, GradientWeighted])
def test_weights_get_the_best_factor_of_each_channel(case, objective):
    operator, sample, gradient = case
    weight, (x,) = operator.weight, sample.inputs
    base = UniformQuantizer.from_range(*weight.flatten(1).aminmax(dim=1), bits=3, scheme="symmetric", axis=0)
    score = objective(sample.output) if objective is SquaredError else objective(sample.output, gradient)
    found, _ = search_weight(operator, sample, score, base=base, grid=GRID)
    importance = gradient.double().square() if objective is GradientWeighted else torch.ones(1)
    for channel in range(4):
        errors = []
        for factor in GRID:
            rounded = fake(weight, base.scale[channel].double() * factor, 3)
            output = functional.conv2d(
                x.double(), rounded, operator.bias.double(), padding=1, groups=operator.groups
            )
            error = (output - sample.output).square() * importance
            errors.append(float(error[:, channel].sum()))
        best = GRID[errors.index(min(errors))]
        assert float(found.scale[channel]) == pytest.approx(float(base.scale[channel]) * best, rel=1e-6)


def test_t2_channels_of_a_depthwise_input_get_their_own_factor(case):
    operator, sample, _ = case
    if not operator.is_depthwise:
        pytest.skip("a dense convolution mixes its channels")
    (x,) = sample.inputs
    rows = x.movedim(1, 0).flatten(1)
    base = UniformQuantizer.from_range(*rows.aminmax(dim=1), bits=3, scheme="symmetric", axis=1)
    found, _ = search_input(operator, 0, sample, SquaredError(sample.output), base=base, grid=GRID)
    for channel in range(4):
        errors = []
        for factor in GRID:
            rounded = fake(x[:, channel : channel + 1], base.scale[channel].double() * factor, 3)
            output = functional.conv2d(rounded, operator.weight[channel : channel + 1].double(), padding=1)
            wanted = sample.output[:, channel : channel + 1] - operator.bias[channel]
            errors.append(float((output - wanted).square().sum()))
        best = GRID[errors.index(min(errors))]
        assert float(found.scale[channel]) == pytest.approx(float(base.scale[channel]) * best, rel=1e-6)


def test_t1_ties_keep_the_range_seen():
    base = UniformQuantizer.from_range(torch.tensor(-1.0), torch.tensor(1.0), bits=8)
    grid = factors(0.01, 1.2, 100)
    found, _ = best_scales(base, grid, lambda _: torch.zeros(()))
    assert float(found.scale / base.scale) == pytest.approx(1, abs=0.01)


def test_losses_that_are_not_finite_are_never_chosen():
    base = UniformQuantizer.from_range(torch.tensor(-1.0), torch.tensor(1.0), bits=8)
    found, loss = best_scales(
        base, [0.5, 1.0, 1.5], lambda q: torch.tensor(2.0 if q.scale > base.scale else torch.nan)
    )
    assert (float(found.scale / base.scale), loss) == (pytest.approx(1.5), 2.0)


def test_t7_both_ends_of_the_grid_are_tried():
    assert (GRID[0], GRID[-1], len(GRID)) == (pytest.approx(0.3), pytest.approx(1.2), 19)


def test_cosine_is_of_the_last_dimension():
    a, b = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    wanted = 1 - functional.cosine_similarity(a, b, dim=-1).mean()
    assert Cosine(a)(a).abs() < 1e-6
    assert Cosine(a)(b) > 0
    assert torch.isfinite(wanted)
