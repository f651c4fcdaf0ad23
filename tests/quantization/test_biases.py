from __future__ import annotations

import pytest
import torch

from pocketvit.quantization.biases import bias_unit, round_biases
from pocketvit.quantization.operators import Linear
from pocketvit.quantization.quantizers import UniformQuantizer


def linear(weight: torch.Tensor, bias: torch.Tensor, *, read: float, scales: torch.Tensor) -> Linear:
    operator = Linear(name="map", module="map", weight=weight, bias=bias)
    operator.set_input(0, UniformQuantizer(scale=torch.tensor(read), qmin=0, qmax=255, axis=None))
    operator.weight_quantizer = UniformQuantizer(scale=scales, qmin=-127, qmax=127, axis=0)
    return operator


def test_biases_become_whole_multiples_of_the_unit() -> None:
    torch.manual_seed(0)
    bias, scales = torch.randn(5), torch.rand(5) / 100 + 1e-3
    operator = linear(torch.randn(5, 3) / 10, bias, read=0.05, scales=scales)
    round_biases([operator])
    unit = bias_unit(operator)
    assert unit is not None
    torch.testing.assert_close(unit, torch.tensor(0.05).double() * scales.double())
    assert operator.bias is not None
    steps = operator.bias.double() / unit
    # the bias itself is stored in 24 bits
    torch.testing.assert_close(steps, steps.round(), rtol=2**-23, atol=0)
    assert ((operator.bias - bias).double().abs() <= unit * 0.5 + bias.abs() * 2**-23).all()


@pytest.mark.parametrize("tiny_scale", [1e-30, 1e-14, 1e-9])
def test_a_dead_channel_gets_a_scale_that_reaches_its_bias(tiny_scale) -> None:
    weight, bias = torch.randn(2, 3), torch.tensor([5.0, -1.0])
    weight[0] = 0
    operator = linear(weight, bias, read=0.05, scales=torch.tensor([tiny_scale, 0.01]))
    round_biases([operator])
    unit = bias_unit(operator)
    assert unit is not None
    assert operator.bias is not None
    integers = (operator.bias.double() / unit).round()
    assert (integers.abs() < 2**31).all()
    torch.testing.assert_close((integers * unit).float(), bias, rtol=1e-6, atol=3e-4)
    assert isinstance(operator.weight_quantizer, UniformQuantizer)
    assert operator.weight_quantizer.scale[1] == torch.tensor(0.01)


def test_no_unit_where_inputs_have_several_scales_or_none() -> None:
    operator = linear(torch.randn(2, 3), torch.ones(2), read=0.1, scales=torch.ones(2))
    operator.set_input(0, UniformQuantizer(scale=torch.ones(3), qmin=0, qmax=255, axis=-1))
    assert bias_unit(operator) is None
    operator.set_input(0, None)
    assert bias_unit(operator) is None
    before = operator.bias
    round_biases([operator])
    assert operator.bias is before
