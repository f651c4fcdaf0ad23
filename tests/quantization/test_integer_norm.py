from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pocketvit.quantization import ranges
from pocketvit.quantization.integer_norm import IntegerNorm, power_of_two_factors
from pocketvit.quantization.operators import Norm
from pocketvit.quantization.quantizers import UniformQuantizer

CHANNELS = 4


def norm(groups: int | None) -> Norm:
    weight, bias = torch.randn(CHANNELS) + 1, torch.randn(CHANNELS)
    return Norm(name="norm", module="", groups=groups, channels=CHANNELS, eps=1e-5, weight=weight, bias=bias)


def integer(float_norm: Norm, x: Tensor, bits: int = 8) -> IntegerNorm:
    float_norm.set_input(0, power_of_two_factors(x, bits=bits, axis=float_norm.channel_axis(x)))
    output = float_norm.compute([x], float_norm.weight)
    scale = ranges.minmax(output, bits=bits, scheme="asymmetric").scale
    return IntegerNorm(float_norm, output_scale=scale)


def one_by_one(operator: IntegerNorm, x: Tensor) -> Tensor:
    """The equations of the docstring with Python's integers, for (group members) of one group a row."""
    grid = operator.input_quantizers[0]
    assert isinstance(grid, UniformQuantizer)
    assert operator.weight is not None
    assert operator.bias is not None
    axis = operator.channel_axis(x)
    step, s_o = float(grid.scale.min()), float(operator.output_scale)
    y = grid(x)
    out = torch.empty(x.shape, dtype=torch.float64)
    groups = operator.groups or 1
    size = CHANNELS // groups

    def group_of(place: tuple[int, ...]) -> tuple[int, ...]:
        if operator.groups is None:
            return place[:-1]
        return (place[0], place[1] // size)

    places = [tuple(p) for p in torch.ones(x.shape).nonzero().tolist()]
    integers = {p: round(float(y[p]) / step) for p in places}
    for p in places:
        members = [integers[q] for q in places if group_of(q) == group_of(p)]
        n = len(members)
        mean = step * sum(members) / n
        radicand = n * sum(m * m for m in members) - sum(members) ** 2
        gamma, beta = float(operator.weight[p[axis]]), float(operator.bias[p[axis]])
        deviation = step * math.sqrt(radicand) / n
        a = step * gamma / (deviation * s_o)
        shift = min(max(7 - math.floor(math.log2(abs(a))), 0), 31)
        m = min(math.floor(abs(a) * 2**shift), 255)
        b = round((beta - mean * gamma / deviation) / s_o * 2**shift)
        out[p] = s_o * round((math.copysign(1, a) * m * integers[p] + b) / 2**shift)
    return out


@pytest.mark.parametrize(
    ("groups", "shape"), [(None, (2, 3, CHANNELS)), (1, (2, CHANNELS, 2, 3)), (2, (2, CHANNELS, 2, 2))]
)
@pytest.mark.parametrize("bits", [8, 6])
def test_t12_integer_norms_reduce_over_the_right_dimensions(
    groups: int | None, shape: tuple[int, ...], bits: int
) -> None:
    torch.manual_seed(1)
    x = torch.randn(shape) * 3
    operator = integer(norm(groups), x, bits)
    expected = one_by_one(operator, x)
    found = operator(x).double()
    # a sum that falls between two integers may go either way
    step = float(operator.output_scale)
    assert ((found - expected).abs() < 1e-5 * step + 1e-6).float().mean() > 0.9
    assert ((found - expected).abs() < 1.001 * step).all()


@pytest.mark.parametrize(("groups", "shape"), [(None, (8, 16, CHANNELS)), (1, (4, CHANNELS, 6, 6))])
def test_eight_bits_come_close_to_the_float_norm(groups: int | None, shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    x = torch.randn(shape)
    operator = integer(norm(groups), x)
    wanted = operator.compute([x], operator.weight)
    error = (operator(x) - wanted).square().mean() / wanted.var()
    assert error < 2e-3
    operator.quantized = False
    assert torch.equal(operator(x), wanted)


def test_gradients_are_those_of_the_float_norm() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 5, CHANNELS)
    operator = integer(norm(None), x)
    x.requires_grad_()
    (found,) = torch.autograd.grad(operator(x).square().sum(), x)
    assert torch.isfinite(found).all()
    assert found.any()


def test_t12_power_of_two_factors_are_the_best_for_each_channel_in_both_layouts() -> None:
    torch.manual_seed(4)
    maps = torch.randn(3, CHANNELS, 4, 4) * torch.tensor([8.0, 3.0, 1.0, 0.4]).reshape(1, -1, 1, 1)
    tokens = maps.flatten(2).mT
    by_map, by_token = (power_of_two_factors(x, bits=8, axis=a) for x, a in ((maps, 1), (tokens, 2)))
    assert torch.equal(by_map.scale, by_token.scale)
    whole = ranges.minmax(maps, bits=8, scheme="asymmetric")
    zero = float(whole.zero_point)
    assert (by_map.zero_point == zero).all()
    for channel in range(CHANNELS):
        x = maps[:, channel].double()
        errors = []
        for power in range(4):
            scale = float(whole.scale) * 2.0 ** (power - 3)
            rounded = ((x / scale).round() + zero).clamp(0, 255) - zero
            errors.append(float((rounded * scale - x).square().mean()))
        assert math.isclose(
            float(by_map.scale[channel]), float(whole.scale) * 2.0 ** (errors.index(min(errors)) - 3)
        )
    assert len(by_map.scale.unique()) > 1


@settings(max_examples=25, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 6, 8]),
    groups=st.sampled_from([None, 1, 2]),
    value=st.sampled_from([0.0, 5.0, -1e-20, 1e15]),
    kind=st.sampled_from(["constant", "one-sided", "wide"]),
)
def test_no_input_makes_numbers_that_are_not_finite(
    bits: int, groups: int | None, value: float, kind: str
) -> None:
    torch.manual_seed(0)
    x = torch.full((2, CHANNELS, 3, 3), value)
    if kind == "one-sided":
        x = x * torch.rand(x.shape)
    if kind == "wide":
        x = x * torch.randn(x.shape)
    x = x if groups else x.flatten(2).mT
    operator = integer(norm(groups), x, bits)
    found = operator(x)
    assert torch.isfinite(found).all()
    if kind == "constant":
        assert operator.bias is not None
        bias = operator.bias.reshape([-1 if i == operator.channel_axis(x) else 1 for i in range(x.dim())])
        assert ((found - bias).abs() <= operator.output_scale * 0.51).all()
