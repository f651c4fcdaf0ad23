"""Uniform quantizers against the definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.core.errors import ConfigError
from pocketvit.quantization.quantizers import UniformQuantizer

BITS = st.integers(2, 8)
SCHEMES = st.sampled_from(["symmetric", "asymmetric"])


def brute(x, quantizer):
    """x̂ by trying every integer of the grid."""
    scale, zero = float(quantizer.scale), float(quantizer.zero_point)
    grid = (np.arange(quantizer.qmin, quantizer.qmax + 1) - zero) * scale
    nearest = np.abs(x.double().numpy().reshape(-1, 1) - grid).argmin(axis=1)
    return grid[nearest].reshape(x.shape), scale


@given(BITS, SCHEMES, st.floats(-5, 5), st.floats(0.01, 20), st.integers(0, 1000))
def test_takes_the_nearest_number_of_its_grid(bits, scheme, centre, spread, seed):
    x = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * spread + centre
    quantizer = UniformQuantizer.from_range(x.min(), x.max(), bits=bits, scheme=scheme)
    wanted, scale = brute(x, quantizer)
    # where two numbers are equally near either will do
    halfway = np.abs(x.double().numpy() - wanted) > scale * (0.5 - 1e-4)
    difference = np.abs(quantizer(x).double().numpy() - wanted)
    assert (difference[~halfway] <= 1e-5 * np.abs(wanted).max() + 1e-30).all()


@given(BITS, SCHEMES, st.sampled_from([0.0, 1e-38, 1e-20, 3.0, -3.0, 1e30, 3e38, -3e38]))
def test_constant_zero_and_huge_tensors_give_finite_numbers(bits, scheme, value):
    x = torch.full((7,), value)
    quantizer = UniformQuantizer.from_range(x.min(), x.max(), bits=bits, scheme=scheme)
    found = quantizer(x)
    assert torch.isfinite(found).all()
    assert torch.allclose(found, x, rtol=0.5 / (2 ** (bits - 1) - 1) + 1e-4, atol=1e-28)


@given(BITS, st.floats(0.1, 100), st.floats(0.01, 100))
def test_t4_the_zero_point_of_a_one_sided_range_fits(bits, low, width):
    for sign in (1, -1):
        ends = sorted((sign * low, sign * (low + width)))
        quantizer = UniformQuantizer.from_range(*map(torch.tensor, ends), bits=bits)
        assert quantizer.qmin <= quantizer.zero_point <= quantizer.qmax
        assert quantizer(torch.zeros(1)) == 0


def test_t4_values_from_10_to_12_keep_their_precision():
    x = torch.linspace(10, 12, 1000)
    quantizer = UniformQuantizer.from_range(x.min(), x.max(), bits=8)
    assert (quantizer(x) - x).square().mean().sqrt() < 0.015


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_channel_has_its_own_scale(axis):
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    rows = x.movedim(axis, 0).flatten(1)
    whole = UniformQuantizer.from_range(*rows.aminmax(dim=1), bits=6, axis=axis)
    for i, row in enumerate(rows):
        alone = UniformQuantizer.from_range(row.min(), row.max(), bits=6)
        assert torch.equal(whole(x).movedim(axis, 0)[i].flatten(), alone(row))


@given(BITS, SCHEMES, st.integers(0, 100))
def test_integers_stand_for_what_the_simulation_computes(bits, scheme, seed):
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))
    quantizer = UniformQuantizer.from_range(*x.aminmax(dim=1), bits=bits, scheme=scheme, axis=0)
    integers = quantizer.integers(x)
    assert quantizer.qmin <= integers.min()
    assert integers.max() <= quantizer.qmax
    back = (integers - quantizer.zero_point[:, None]) * quantizer.scale[:, None]
    assert torch.allclose(back, quantizer(x), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_pass_where_nothing_is_clipped(dtype):
    x = torch.tensor([-3.0, -0.4, 0.3, 0.9, 5.0], dtype=dtype, requires_grad=True)
    quantizer = UniformQuantizer.from_range(torch.tensor(-1.0), torch.tensor(1.0), bits=8)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_double_precision_computes_the_same_as_torchs_kernel():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    quantizer = UniformQuantizer.from_range(x.min(), x.max(), bits=8)
    assert (quantizer(x).double() - quantizer(x.double())).abs().max() < 1e-6


def test_narrow_weights_leave_out_the_smallest_integer():
    bound = torch.tensor(2.0)
    quantizer = UniformQuantizer.from_range(-bound, bound, bits=8, scheme="symmetric", narrow=True)
    assert (quantizer.qmin, quantizer.qmax) == (-127, 127)
    assert quantizer(bound) == bound


def test_other_widths_are_refused():
    with pytest.raises(ConfigError, match="9 bits are not supported"):
        UniformQuantizer.from_range(torch.tensor(0.0), torch.tensor(1.0), bits=9)
