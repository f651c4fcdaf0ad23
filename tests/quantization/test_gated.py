from __future__ import annotations

import pytest
import torch

from pocketvit.quantization.gated import GatedSiLU
from pocketvit.quantization.operators import Activation


@pytest.fixture
def gated() -> GatedSiLU:
    silu = torch.ops.aten.silu.default
    return GatedSiLU(Activation(name="act", module="act", target=silu, arguments=(), options={}))


def test_the_gate_is_a_table_of_256_entries(gated) -> None:
    """Against a table made by hand: what a byte x stands for, times its sigmoid in 255ths."""
    step, zero = 0.05, 100
    x = (torch.arange(256, dtype=torch.float64) - zero) * step
    table = torch.round(255 / (1 + torch.exp(-x))) / 255
    torch.testing.assert_close(gated(x.float()).double(), x * table, rtol=1e-6, atol=1e-6)


def test_it_is_silu_to_half_a_step_of_the_gate(gated) -> None:
    x = torch.linspace(-12, 12, 4001)
    exact = torch.nn.functional.silu(x)
    assert ((gated(x) - exact).abs() <= x.abs() / 510 + 1e-6).all()
    gated.quantized = False
    torch.testing.assert_close(gated(x), exact)


def test_it_counts_as_quantized(gated) -> None:
    assert gated.has_quantizers
    assert gated.function == "silu"
