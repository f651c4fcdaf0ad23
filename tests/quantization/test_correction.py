"""Closed-form corrections: the algebra against a solver, and that they help where they are kept."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from pocketvit.quantization import correction
from pocketvit.quantization.correction import correct_weights, least_error_weights
from pocketvit.quantization.operators import Convolution, Linear
from pocketvit.quantization.quantizers import UniformQuantizer


def make(kind):
    random = torch.Generator().manual_seed(3)
    mix = torch.randn(8, 8, generator=random)
    common = {"name": "x", "module": "x"}
    if kind in {"dense", "depthwise", "strided"}:
        groups = 8 if kind == "depthwise" else 1
        x = torch.einsum("nchw,cd->ndhw", torch.randn(32, 8, 9, 9, generator=random), mix)
        weight = torch.randn(8, 8 // groups, 3, 3, generator=random)
        stride = (2, 2) if kind == "strided" else (1, 1)
        operator = Convolution(
            **common, weight=weight, stride=stride, padding=(1, 1), dilation=(1, 1), groups=groups
        )
        return operator, x
    x = torch.randn(32, 20, 8, generator=random) @ mix
    weight = torch.randn(6, 8, generator=random)
    return Linear(**common, weight=weight, left=kind == "left"), x.mT if kind == "left" else x


KINDS = ("dense", "depthwise", "strided", "linear", "left")


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_results_belong_together(kind):
    operator, x = make(kind)
    output = operator.compute([x], operator.weight)
    vectors, results = correction._vectors(operator, x), correction._results(operator, output)
    product = vectors.double() @ correction._matrix(operator).mT
    assert torch.allclose(product, results.double(), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 4, 6])
def test_comes_no_farther_on_images_it_has_not_seen_and_nearer_where_rounding_is_coarse(kind, bits):
    operator, x = make(kind)
    wanted = operator.compute([x], operator.weight)
    grid = UniformQuantizer.from_range(x.min(), x.max(), bits=4)
    quantizer = least_error_weights(operator, grid(x[:24]), bits=bits)
    plain = operator.compute([grid(x[24:])], quantizer(operator.weight))
    correct_weights(operator, grid(x[:24]), wanted[:24], quantizer)
    better = operator.compute([grid(x[24:])], quantizer(operator.weight))
    ratio = (better - wanted[24:]).square().mean() / (plain - wanted[24:]).square().mean()
    # the error of a 4-bit input, which no weight can undo, is in both
    assert ratio < (0.9 if bits == 3 and kind != "depthwise" else 1.001)


@pytest.mark.parametrize("kind", KINDS)
def test_the_corrected_weights_are_on_the_grid(kind):
    operator, x = make(kind)
    quantizer = least_error_weights(operator, x, bits=4)
    correct_weights(operator, x, operator.compute([x], operator.weight), quantizer)
    assert torch.allclose(quantizer(operator.weight), operator.weight, atol=1e-6)


def test_rounding_in_turn_beats_rounding_to_nearest_and_is_near_the_best_there_is():
    random = torch.Generator().manual_seed(0)
    x = (
        torch.randn(500, 5, generator=random, dtype=torch.float64)
        @ torch.randn(5, 5, generator=random).double()
    )
    second = (x.T @ x / len(x))[None]
    weight = torch.randn(1, 1, 5, generator=random).double()
    grid = UniformQuantizer(scale=torch.tensor([0.5]), qmin=-8, qmax=7, axis=0)

    def loss(w):
        return float(torch.einsum("gok,gkl,gol->", w - weight, second, w - weight))

    found = loss(correction._round_in_turn(weight, second, grid, [None] * 5))
    nearest = loss(grid(weight[0])[None])
    floors = (weight / 0.5).floor()
    offsets = torch.cartesian_prod(*[torch.tensor([-1.0, 0, 1, 2])] * 5).double()
    best = min(loss((floors + o) * 0.5) for o in offsets)
    assert best - 1e-9 <= found <= nearest


def test_rounding_in_blocks_is_rounding_column_by_column(monkeypatch):
    random = torch.Generator().manual_seed(5)
    x = torch.randn(2, 300, 20, generator=random, dtype=torch.float64)
    second = x.mT @ x / 300
    weight = torch.randn(2, 3, 20, generator=random, dtype=torch.float64)
    grid = UniformQuantizer(scale=torch.full((6,), 0.3), qmin=-8, qmax=7, axis=0)
    whole = correction._round_in_turn(weight, second, grid, [None] * 20)
    for block in (1, 7, 20):
        monkeypatch.setattr(correction, "_BLOCK", block)
        assert torch.equal(correction._round_in_turn(weight, second, grid, [None] * 20), whole)


def expected_weights(operator, read, wanted):
    variance = wanted.double().flatten(1).var(dim=1, correction=0)
    lacking = (operator.compute([read], operator.weight) - wanted).double().flatten(1)
    return 1 / (variance * (1 + lacking.square().mean(1) / variance / 0.02) ** 2)


def test_ridge_is_least_squares_of_weighted_images():
    operator, x = make("linear")
    read = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    wanted = operator.compute([x], operator.weight)
    moments = correction._moments(operator, read, wanted)
    exact = correction._matrix(operator) + torch.linalg.solve(moments.inputs, moments.errors).mT
    a = read.reshape(-1, 8).double()
    a = torch.cat([a, torch.ones(len(a), 1)], dim=1)
    weights = expected_weights(operator, read, wanted).sqrt().repeat_interleave(x.shape[1])[:, None]
    solution = torch.linalg.lstsq(weights * a, weights * wanted.reshape(-1, 6)).solution[:8].T
    assert torch.allclose(exact[0], solution, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_one_loud_image_does_not_move_the_results_of_the_others(kind):
    operator, x = make(kind)
    x = torch.cat([x[:31], 100 + 200 * x[31:]])
    wanted = operator.compute([x], operator.weight)
    grid = UniformQuantizer.from_range(x[:31].min(), x[:31].max(), bits=6)  # clips most of the loud one
    quantizer = least_error_weights(operator, grid(x), bits=6)
    plain = operator.compute([grid(x[:31])], quantizer(operator.weight))
    correct_weights(operator, grid(x), wanted, quantizer)
    corrected = operator.compute([grid(x[:31])], operator.weight)
    error = (corrected - wanted[:31]).square().mean()
    assert error < 1.5 * (plain - wanted[:31]).square().mean()
    assert error < 0.01 * wanted[:31].var()


@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_weighs_what_its_image_does_and_that_little_where_its_error_is_large(kind):
    operator, x = make(kind)
    read = x + torch.logspace(-3, 1, len(x)).reshape(-1, *[1] * (x.dim() - 1)) * x.flip(-1)
    wanted = operator.compute([x], operator.weight)
    vectors = correction._results(operator, wanted).shape[1]
    weights = correction._weights(operator, read, wanted, vectors)
    expected = expected_weights(operator, read, wanted).repeat_interleave(vectors // len(x))
    assert torch.allclose(weights.double(), expected / expected.sum(), rtol=1e-3, atol=1e-9)
    assert weights[0] > 1e4 * weights[-1]


@given(error=st.floats(1e-30, 1e15), images=st.sampled_from([1, 2, 8]))
def test_weights_are_finite_and_one_in_all_whatever_the_errors(error, images):
    operator, x = make("linear")
    wanted = operator.compute([x[:images]], operator.weight)
    weights = correction._weights(operator, x[:images] * error, wanted, images * 20)
    assert torch.isfinite(weights).all()
    assert float(weights.sum()) == pytest.approx(1, rel=1e-4)


def test_weights_of_zero_and_inputs_of_zero_stay_finite():
    operator, x = make("dense")
    torch.nn.init.zeros_(operator.weight)
    for read in (x, x * 0):
        quantizer = least_error_weights(operator, read, bits=8)
        correct_weights(operator, read, functional.conv2d(x, operator.weight, padding=1), quantizer)
        assert torch.isfinite(operator.weight).all()
        assert torch.isfinite(operator.bias).all()
