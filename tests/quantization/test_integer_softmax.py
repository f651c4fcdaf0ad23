from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketvit.quantization import ranges
from pocketvit.quantization.integer_softmax import (
    Exponential,
    IntegerSoftmax,
    linear,
    log_round,
    second_order,
)
from pocketvit.quantization.operators import Softmax
from pocketvit.quantization.quantizers import UniformQuantizer


def integer(
    x: Tensor, exponential: Exponential, *, dim: int = -1, bits: int = 8, logarithm: int | None = None
) -> IntegerSoftmax:
    softmax = Softmax(name="softmax", module="", dim=dim)
    softmax.set_input(0, ranges.minmax(x, bits=bits, scheme="asymmetric"))
    return IntegerSoftmax(softmax, exponential=exponential, logarithm=logarithm)


def parts_one_by_one(integers: list[int], step: float, exponential: Exponential) -> list[int]:
    """E of the docstring's equations, with Python's integers."""
    half = math.floor(-math.log(2) / step)
    parts: list[int] = []
    for x in integers:
        x = max(x - max(integers), 30 * half)
        q = x // half if x % half == 0 else math.floor(x / half)
        r = x - q * half
        if exponential is second_order:
            b, c = math.floor(0.96963238 / 0.35815147 / step), math.floor(1 / 0.35815147 / step**2)
            part = r * (r + b) + c
        else:
            part = r + math.floor(0.12121466 / 0.08947606 / step)
        parts.append(math.floor(part * 2.0 ** (30 - q)))
    return parts


@pytest.mark.parametrize("exponential", [second_order, linear])
def test_integers_follow_the_equations(exponential: Exponential) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 7) * 1.5
    operator, logarithmic = (integer(x, exponential, logarithm=bits) for bits in (None, 4))
    grid = operator.input_quantizers[0]
    assert isinstance(grid, UniformQuantizer)
    step = float(grid.scale)
    assert step < 2**-5
    for row, found, powers in zip(grid(x), operator(x), logarithmic(x), strict=True):
        parts = parts_one_by_one([round(float(v) / step) for v in row], step, exponential)
        expected = torch.tensor([part / sum(parts) for part in parts])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
        for part, power in zip(parts, powers.tolist(), strict=True):
            ratio = round(sum(parts) / part)
            k = math.floor(math.log2(ratio))
            k += ratio - 2**k >= 2 ** (k - 1)
            assert power == (2.0**-k if k < 15 else 0.0)


@pytest.mark.parametrize(("exponential", "limit"), [(second_order, 0.01), (linear, 0.07)])
@pytest.mark.parametrize("size", [0.2, 1.5])
def test_exponentials_are_off_by_the_polynomial_and_by_the_rounded_logarithm_of_two(
    exponential: Exponential, limit: float, size: float
) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 3, 20) * size
    for dim in (-1, 1):
        operator = integer(x, exponential, dim=dim)
        grid = operator.input_quantizers[0]
        assert isinstance(grid, UniformQuantizer)
        step, y = float(grid.scale), grid(x)
        found = (operator(x) / operator(x).amax(dim, keepdim=True)).log()
        wanted = y - y.amax(dim, keepdim=True)
        halvings = (wanted / -math.log(2)).ceil()
        rounding = math.ceil(math.log(2) / step) * step - math.log(2)
        constants = 2 * step  # of the polynomial, in whole steps
        assert ((found - wanted).abs() <= limit + constants + halvings * rounding).all()
        torch.testing.assert_close(operator(x).sum(dim), torch.ones_like(x.sum(dim)))
        operator.quantized = False
        assert torch.equal(operator(x), x.softmax(dim))


def test_logarithms_round_up_from_one_and_a_half() -> None:
    x = torch.tensor([1.0, 1.49, 1.5, 2, 2.9, 3, 5.9, 6, 1024, 1535, 1536, math.inf], dtype=torch.float64)
    assert log_round(x).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 10, 10, 11, math.inf]


@pytest.mark.parametrize("logarithm", [None, 4])
@pytest.mark.parametrize("exponential", [second_order, linear])
def test_a_mask_leaves_the_weights_of_what_counts(exponential: Exponential, logarithm: int | None) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8)
    softmax = Softmax(name="softmax", module="", dim=-1, mask=torch.zeros(2, 8))
    assert softmax.mask is not None
    softmax.mask[0, 4:] = softmax.mask[1] = torch.finfo(torch.float32).min / 2  # the second hides everything
    softmax.set_input(0, ranges.minmax(x, bits=8, scheme="asymmetric"))
    masked = IntegerSoftmax(softmax, exponential=exponential, logarithm=logarithm)
    alone = integer(x[..., :4], exponential, logarithm=logarithm)
    alone.set_input(0, softmax.input_quantizers[0])
    found = masked(x)
    torch.testing.assert_close(found[:, :1, :4], alone(x[..., :4]), rtol=1e-6, atol=0)
    assert (found[:, :1, 4:] < 1e-8).all()
    torch.testing.assert_close(found[:, 1], torch.full((3, 8), 1 / 8))


def test_gradients_are_those_of_softmax() -> None:
    x = torch.randn(2, 5)
    operator = integer(x, second_order, logarithm=4)
    x.requires_grad_()
    (found,) = torch.autograd.grad(operator(x).square().sum(), x)
    assert found.any()
    assert torch.isfinite(found).all()


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 6, 8]),
    size=st.sampled_from([0.0, 1e-25, 1.0, 300.0, 1e30]),
    logarithm=st.sampled_from([None, 4]),
    exponential=st.sampled_from([second_order, linear]),
)
def test_coarse_fine_and_constant_scores_give_weights(
    bits: int, size: float, logarithm: int | None, exponential: Exponential
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6) * size
    operator = integer(x, exponential, bits=bits, logarithm=logarithm)
    found = operator(x)
    assert torch.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()
    grid = operator.input_quantizers[0]
    assert grid is not None
    wanted = grid(x).softmax(-1)
    # never dead: the largest weight is about what softmax makes of the same scores
    largest = found.amax(-1) / wanted.amax(-1)
    assert ((largest > 0.6) & (largest < 1.6)).all()
