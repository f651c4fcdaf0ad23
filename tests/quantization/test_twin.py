from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pocketvit.core.errors import ConfigError
from pocketvit.quantization import capture
from pocketvit.quantization.operators import Activation
from pocketvit.quantization.quantizers import BITS
from pocketvit.quantization.twin import DIPPING, TwinUniformQuantizer, lowest_value

FUNCTIONS = {
    "gelu": (nn.GELU(), -0.16997124),
    "gelu_tanh": (nn.GELU("tanh"), -0.17004),
    "silu": (nn.SiLU(), -0.278465),
    "hardswish": (nn.Hardswish(), -0.375),
}


def activation(function: nn.Module) -> Activation:
    network = capture(nn.Sequential(function, nn.Flatten()), size=4)
    (found,) = network.operators.values()
    assert isinstance(found, Activation)
    return found


def nearest(x: Tensor, grid: Tensor) -> Tensor:
    """By trying every number of the grid, in double precision."""
    return grid[(x.double()[..., None] - grid).abs().argmin(-1)]


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("split", [1.0, 0.25, 2.0**-7, 2.0**-19])
def test_softmax_twin_is_the_nearest_number_of_the_grid_of_its_region(bits, split):
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.rand(500, generator=generator), torch.rand(500, generator=generator) * split * 2]
    ).clamp(0, 1)
    steps = 2 ** (bits - 1) - 1
    whole = torch.arange(steps + 1, dtype=torch.float64)
    wanted = torch.where(x >= split, nearest(x, whole / steps), nearest(x, whole * split / steps))
    found = TwinUniformQuantizer.for_softmax(split=split, bits=bits)(x)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    assert len(found.unique()) <= 2**bits


@pytest.mark.parametrize("bits", [3, 6, 8])
def test_activation_twin_is_the_nearest_number_of_the_grid_of_its_sign(bits):
    x = functional.silu(torch.linspace(-9, 9, 2001))
    half = 2 ** (bits - 1)
    scale = torch.tensor(9 / (half - 0.5))
    positive = torch.arange(half, dtype=torch.float64) * scale.double()
    negative = -torch.arange(half + 1, dtype=torch.float64) * (0.278465 / half)
    wanted = torch.where(x >= 0, nearest(x, positive), nearest(x, negative))
    found = TwinUniformQuantizer.for_activation(scale=scale, lowest=-0.278465, bits=bits)(x)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-7)
    assert len(found.unique()) <= 2**bits  # 0 is in both grids and counts once


def test_t3_the_regions_are_masked():
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).mul(2).softmax(-1)
    x = torch.cat([x.flatten(), torch.linspace(0, 1, 500)])
    steps, split = 127, 0.25
    released = (x.clamp(split, 1) * steps).round() / steps + (x.clamp(0, split) * steps / split).round() * (
        split / steps
    )
    quantized = TwinUniformQuantizer.for_softmax(split=split, bits=8)(x)
    assert (quantized - x).abs().max() <= 0.5 / steps + 1e-7
    assert (quantized - x).square().mean() < 1e-5
    assert (released - x).square().mean() > 1e-2


def test_t9_the_negative_step_follows_the_function():
    x = functional.silu(torch.linspace(-6, 0, 1001))
    right, wrong = (
        TwinUniformQuantizer.for_activation(scale=torch.tensor(0.1), lowest=lowest, bits=8)
        for lowest in (lowest_value(activation(nn.SiLU())), -0.16997124)
    )
    assert (right(x) - x).abs().max() < 0.5 * 0.278465 / 128 + 1e-6
    assert (wrong(x) - x).abs().max() > 0.1  # what lies below GELU's minimum is cut off


@pytest.mark.parametrize(("function", "lowest"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_lowest_value_is_the_minimum_of_the_function(function, lowest):
    found = activation(function)
    assert found.function in DIPPING
    assert lowest_value(found) == pytest.approx(lowest, abs=2e-6)


@given(
    bits=st.sampled_from(BITS),
    power=st.integers(-38, 38),
    kind=st.sampled_from(["both", "zero", "positive", "negative", "constant"]),
    split=st.sampled_from([1.0, 2.0**-3, 2.0**-19]),
)
@examples(max_examples=40)
def test_any_tensor_stays_finite_and_alive(bits, power, kind, split):
    x = torch.linspace(-1, 1, 33) * min(10.0**power, 3e38)
    x = {
        "both": x,
        "zero": x * 0,
        "positive": x.abs(),
        "negative": -x.abs(),
        "constant": torch.full_like(x, float(x.max())),
    }[kind]
    largest = x.max().clamp_min(0).double()
    twin = TwinUniformQuantizer.for_activation(
        scale=largest / (2 ** (bits - 1) - 0.5), lowest=-0.278465, bits=bits
    )
    found = twin(x)
    assert torch.isfinite(found).all()
    assert (found[x >= 0] >= 0).all()
    assert (found[x < 0] <= 0).all()
    if largest > 1e-20:
        assert found.max() > 0.6 * largest
    assert torch.isfinite(TwinUniformQuantizer.for_softmax(split=split, bits=bits)(x)).all()


def test_gradients_pass_where_nothing_is_clipped():
    x = torch.tensor([-0.5, -0.1, 0.3, 2.0], requires_grad=True)
    twin = TwinUniformQuantizer.for_activation(scale=torch.tensor(1 / 127), lowest=-0.278465, bits=8)
    twin(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_state_survives_a_copy():
    twin = TwinUniformQuantizer.for_softmax(split=0.125, bits=6)
    other = TwinUniformQuantizer.for_softmax(split=1.0, bits=6)
    other.load_state_dict(twin.state_dict())
    x = torch.linspace(0, 1, 400)
    assert torch.equal(other(x), twin(x))


@pytest.mark.parametrize("bits", [1, 9])
def test_unsupported_bits_are_refused(bits):
    with pytest.raises(ConfigError, match="bits are not supported"):
        TwinUniformQuantizer.for_softmax(split=0.5, bits=bits)
    with pytest.raises(ConfigError, match="bits are not supported"):
        TwinUniformQuantizer.for_activation(scale=torch.tensor(1.0), lowest=-0.2, bits=bits)
