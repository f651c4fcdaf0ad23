from __future__ import annotations

import pytest
import torch

from pocketvit.quantization.gated import SLOPES, GatedActivation
from pocketvit.quantization.operators import Activation

FURTHEST = {"silu": 0.0, "gelu": 0.0204}
"""From the function, before anything is rounded."""


def gate(function: str) -> GatedActivation:
    target = getattr(torch.ops.aten, function).default
    return GatedActivation(Activation(name="act", module="act", target=target, arguments=(), options={}))


@pytest.mark.parametrize("function", SLOPES)
def test_the_gate_is_a_table_of_256_entries(function) -> None:
    """Against a table made by hand: what a byte x stands for, times a sigmoid in 255ths."""
    step, zero = 0.05, 100
    x = (torch.arange(256, dtype=torch.float64) - zero) * step
    table = torch.round(255 / (1 + torch.exp(-{"silu": 1, "gelu": 1.702}[function] * x))) / 255
    torch.testing.assert_close(gate(function)(x.float()).double(), x * table, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", SLOPES)
def test_it_is_the_function_to_half_a_step_of_the_gate(function) -> None:
    x = torch.linspace(-12, 12, 4001)
    exact, gated = getattr(torch.nn.functional, function)(x), gate(function)
    assert ((gated(x) - exact).abs() <= x.abs() / 510 + FURTHEST[function] + 1e-6).all()
    gated.quantized = False
    torch.testing.assert_close(gated(x), exact)


def test_it_counts_as_quantized() -> None:
    assert gate("silu").has_quantizers
    assert gate("silu").function == "silu"
