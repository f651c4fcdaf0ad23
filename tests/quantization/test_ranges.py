"""Observers against numpy and exhaustive search."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pocketvit.quantization import ranges
from pocketvit.quantization.methods.repqvit import asymmetric, central_range
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.ranges import least_error, minmax, omse, percentile, with_fitted_step

minmax_range, percentile_range, omse_range = (
    partial(observer, scheme="asymmetric") for observer in (minmax, percentile, omse)
)
repq_range = partial(central_range, grid=asymmetric)

HEAVY = torch.cat(
    [torch.randn(5000, generator=torch.Generator().manual_seed(0)), torch.tensor([60.0, -40.0])]
)


def error(quantizer, x):
    return float((quantizer(x) - x).square().mean())


def test_minmax_covers_everything():
    quantizer = minmax(HEAVY, bits=8, scheme="asymmetric")
    assert float(quantizer.high - quantizer.low) == pytest.approx(100, rel=1e-5)


def test_percentile_is_numpys():
    quantizer = percentile(HEAVY, bits=8, scheme="asymmetric", share=0.99)
    low, high = np.quantile(HEAVY.numpy(), [0.01, 0.99], method="nearest")
    assert float(quantizer.scale) == pytest.approx((high - low) / 255, rel=1e-3)


@pytest.mark.parametrize("bits", [4, 8])
def test_omse_is_the_best_of_ninety_shrinks(bits):
    tried = [
        UniformQuantizer.from_range(HEAVY.min() * (1 - i / 100), HEAVY.max() * (1 - i / 100), bits=bits)
        for i in range(90)
    ]
    found = omse(HEAVY, bits=bits, scheme="asymmetric")
    assert error(found, HEAVY) == pytest.approx(min(error(q, HEAVY) for q in tried), rel=1e-5)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_least_error_is_within_its_slack_of_every_other_observer(bits):
    found = error(least_error(HEAVY, bits=bits), HEAVY)
    for other in (minmax, omse, percentile):
        assert found <= error(other(HEAVY, bits=bits, scheme="asymmetric"), HEAVY) * 1.06


@pytest.mark.parametrize("bits", [6, 8])
@pytest.mark.parametrize("observe", [minmax_range, percentile_range, omse_range, repq_range, least_error])
@pytest.mark.parametrize("function", [torch.relu, functional.silu, lambda x: -torch.relu(x)])
def test_t10_a_one_sided_tensor_is_given_every_integer(function, observe, bits):
    """A zero point that could only be near the middle would leave half of the integers to one side."""
    x = function(3 * torch.randn(20_000, generator=torch.Generator().manual_seed(0)))
    integers = observe(x, bits=bits).integers(x)
    assert (integers.min(), integers.max()) == (0, 2**bits - 1)


def test_least_error_behind_a_function_ignores_what_it_flattens():
    x = torch.linspace(-20, 4, 5000)
    plain, behind = least_error(x, bits=8), least_error(x, bits=8, behind=torch.relu)
    assert behind.low > plain.low
    assert error(lambda _: torch.relu(behind(x)), torch.relu(x)) < error(
        lambda _: torch.relu(plain(x)), torch.relu(x)
    )


def test_one_loud_image_does_not_take_the_steps_from_the_others():
    generator = torch.Generator().manual_seed(0)
    quiet = torch.randn(7, 3, 20, 20, generator=generator)
    loud = 40 * torch.randn(1, 3, 20, 20, generator=generator)
    x = torch.cat([quiet, loud])
    together, each = least_error(x, bits=6), least_error(x, bits=6, images=8)
    assert error(each, quiet) < 0.5 * error(together, quiet)

    def relative(quantizer):
        rows = x.flatten(1)
        return float(((quantizer(rows) - rows).square().mean(1) / rows.var(1, correction=0)).mean())

    tried = [
        UniformQuantizer.from_range(a * x.min(), b * x.max(), bits=6) for a, b in product(SHARES, SHARES)
    ]
    assert relative(each) <= 1.06 * min(relative(quantizer) for quantizer in tried)


@pytest.mark.parametrize("bits", [6, 8])
def test_an_image_far_louder_than_the_median_has_no_say(bits):
    """By relative errors alone it would: to clip one of 32 costs 1/32, more than coarser steps for 31."""
    x = torch.randn(32, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    loud = x.clone()
    loud[5] *= 12
    others = torch.cat([x[:5], x[6:]])
    assert least_error(loud, bits=bits, images=32).same_grid(least_error(others, bits=bits, images=31))
    twice = x.clone()
    twice[5] *= 2
    assert not least_error(twice, bits=bits, images=32).same_grid(least_error(others, bits=bits, images=31))


def test_the_few_images_that_a_tensor_is_not_zero_for_are_not_loud():
    x = torch.zeros(32, 50)
    x[3], x[4] = torch.linspace(-1, 2, 50), torch.linspace(-2, 4, 50)
    found = least_error(x, bits=8, images=32)
    assert error(found, x) < 1e-4
    assert float(found.high) == pytest.approx(4, rel=0.02)


def test_neither_of_two_images_is_louder_than_the_median():
    x = torch.stack([torch.linspace(-1, 1, 100), torch.linspace(-50, 50, 100)])
    assert float(least_error(x, bits=8, images=2).high) > 10


def ties(quantizer, x):
    steps = x.unique().double() / quantizer.scale
    return int(((steps - steps.floor() - 0.5).abs() < 3e-5).sum())


def products(seed):
    a, b = torch.randint(256, (2, 40_000), generator=torch.Generator().manual_seed(seed))
    return ((a - 100 * (seed % 2)) * b).float() * 0.00317


def test_products_of_integers_are_seldom_halfway_between_fitted_steps():
    before = after = 0
    for x in map(products, range(20)):
        exact = minmax(x, bits=8, scheme="asymmetric")
        fitted = with_fitted_step(exact, x)
        before, after = before + ties(exact, x), after + ties(fitted, x)
        assert float(fitted.scale / exact.scale) == pytest.approx(1, abs=5e-3)
        assert (fitted.zero_point, fitted.qmin, fitted.qmax) == (exact.zero_point, exact.qmin, exact.qmax)
    assert before > 200
    assert after < before / 4


def test_the_widest_products_are_where_the_largest_is_a_multiple_of_all():
    a, b = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    x = (a * b).float().flatten()
    exact = minmax(x, bits=8, scheme="asymmetric")
    assert ties(exact, x) == 0, "a step of 255"
    half = exact.at_scale(exact.scale * 0.8)
    assert ties(half, x) > 100, "a step of 204, and products that are odd multiples of 102"
    assert ties(with_fitted_step(half, x), x) < ties(half, x) / 20


@pytest.mark.parametrize("halfway", [0.5, 25.5, -30.5])
def test_a_product_that_occurs_often_is_not_left_halfway_between_fitted_steps(monkeypatch, halfway):
    """As in the gate of a CAS-ViT, where one of the products was 25.500006 steps."""
    x = products(1)
    exact = minmax(x, bits=8, scheme="asymmetric")

    def often(scale):
        return torch.cat([x, torch.full((60,), halfway * float(scale))])

    def distance(fitted, scale):
        return abs((halfway * float(scale) / float(fitted.scale)) % 1 - 0.5)

    with monkeypatch.context() as patched:
        patched.setattr(ranges, "_BY_CHANCE", 1)
        scale = exact.scale
        for _ in range(20):  # until the fit to what is halfway is the one it is halfway of
            scale = with_fitted_step(exact, often(scale)).scale
        assert distance(with_fitted_step(exact, often(scale)), scale) < 1e-5
    found = with_fitted_step(exact, often(scale))
    assert distance(found, scale) > 3e-5
    assert float(found.scale / scale) == pytest.approx(1, abs=1.2e-3)


def test_the_fitted_step_is_the_best_for_its_integers():
    exact = minmax(HEAVY, bits=6, scheme="asymmetric")
    low, high = exact.low, exact.high
    inside = HEAVY[(low < HEAVY) & (high > HEAVY)]
    integers = (inside / exact.scale).round().double().numpy()[:, None]
    (best,), *_ = np.linalg.lstsq(integers, inside.double().numpy(), rcond=None)
    assert float(with_fitted_step(exact, HEAVY).scale) == pytest.approx(best, rel=1e-6)


def test_nothing_to_fit_a_step_to():
    for x in (torch.zeros(100), torch.full((100,), 0.3), torch.tensor([0.0, 255.0])):
        quantizer = UniformQuantizer(scale=torch.tensor(1.0), qmin=0, qmax=255, axis=None)
        assert with_fitted_step(quantizer, x) is quantizer


SHARES = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e18])
def test_silent_and_huge_images(images, scale):
    x = torch.cat([torch.zeros(1, 50), torch.full((1, 50), scale), scale * torch.randn(2, 50)])
    quantizer = least_error(x, bits=8, images=images)
    assert torch.isfinite(quantizer(x)).all()
    assert quantizer.high > quantizer.low


@given(
    st.integers(2, 8),
    st.sampled_from([(0.0, 0.0), (1.0, 0.0), (0.0, 1e-30), (5.0, 1e-3), (0.0, 1e30), (-7.0, 1.0)]),
    st.integers(1, 40),
)
def test_no_tensor_gives_nan_or_a_dead_range(bits, shape, count):
    centre, spread = shape
    x = centre + spread * torch.linspace(-1, 1, count)
    for observer in (minmax, omse, percentile):
        quantizer = observer(x, bits=bits, scheme="asymmetric")
        assert torch.isfinite(quantizer(x)).all()
        assert quantizer.high > quantizer.low
    quantizer = least_error(x, bits=bits)
    assert torch.isfinite(quantizer(x)).all()
    assert quantizer.high > quantizer.low
