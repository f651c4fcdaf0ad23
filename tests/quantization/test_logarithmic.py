from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.core.errors import ConfigError
from pocketvit.quantization.logarithmic import LogarithmicQuantizer


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    bits=st.sampled_from([2, 4, 6, 8]),
    steps=st.sampled_from([1, 2]),
    scale=st.sampled_from([1e-6, 0.3, 1.0, 7.0]),
)
def test_the_power_nearest_in_the_exponent_is_taken(seed: int, bits: int, steps: int, scale: float) -> None:
    torch.manual_seed(seed)
    x = (torch.randn(50, dtype=torch.float64) * 6).exp2() * scale
    quantizer = LogarithmicQuantizer(scale=scale, bits=bits, steps=steps)
    found = quantizer(x)
    exact = float(quantizer.scale)
    powers = torch.tensor([exact * 2 ** (-q / steps) for q in range(2**bits - 1)], dtype=torch.float64)
    distance = (x[:, None].log2() - powers.log2()).abs()
    nearest, index = distance.min(dim=1)
    below = x < powers[-1] * 2 ** (-0.5 / steps)
    tied = (distance - nearest[:, None] < 1e-9).sum(dim=1) > 1
    expected = torch.where(below, 0.0, powers[index])
    torch.testing.assert_close(found[~tied], expected[~tied], rtol=1e-12, atol=0)
    assert len(found.unique()) <= 2**bits
    assert torch.equal(quantizer(found), found)


@pytest.mark.parametrize("value", [0.0, 1e-38, 3e38])
def test_constant_tensors_stay_finite(value: float) -> None:
    for scale in (value, 1.0):
        found = LogarithmicQuantizer(scale=scale, bits=4, steps=2)(torch.full((3,), value))
        assert torch.isfinite(found).all()
    assert (LogarithmicQuantizer(scale=value, bits=4, steps=2)(torch.full((3,), value)) > 0).all() == (
        value > 0
    )


def test_gradients_pass_where_nothing_was_cut_off() -> None:
    x = torch.tensor([2.0, 0.9, 0.1, 1e-9], requires_grad=True)
    LogarithmicQuantizer(scale=1.0, bits=4, steps=1)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_widths_that_no_kernel_carries_are_refused() -> None:
    with pytest.raises(ConfigError, match="9 bits"):
        LogarithmicQuantizer(scale=1.0, bits=9, steps=1)
