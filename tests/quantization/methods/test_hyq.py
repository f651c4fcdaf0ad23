from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture
from pocketvit.quantization.integer_softmax import IntegerSoftmax, linear
from pocketvit.quantization.methods.hyq import HYQ, inverted_residuals, learn_divisor
from pocketvit.quantization.operators import Convolution, Norm, Softmax
from pocketvit.quantization.quantize import operators_to_quantize
from pocketvit.quantization.quantizers import UniformQuantizer


class Inverted(nn.Module):
    """Two inverted residuals, the second in a residual sum, and a depthwise convolution that is in none."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.expand, self.project = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.expand2, self.project2 = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)
        self.depthwise2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.local, self.mix = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.stem(x))
        x = self.project(functional.silu(self.depthwise(functional.silu(self.expand(x)))))
        x = x + self.project2(functional.relu(self.depthwise2(functional.relu(self.expand2(x)))))
        x = self.mix(functional.silu(self.local(x)))
        tokens = x.flatten(2).mT
        return self.head(((tokens @ tokens.mT).softmax(-1) @ tokens).mean(1))


def network() -> QuantizedNetwork:
    torch.manual_seed(0)
    model = Inverted()
    with torch.no_grad():  # what the projection reads has channels of very different ranges
        model.depthwise.weight.mul_(torch.logspace(-1, 1.5, 8).reshape(-1, 1, 1, 1))
    return capture(model.eval(), size=16)


def calibration() -> Calibration:
    return Calibration(torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


def test_inverted_residuals_are_found_by_their_shape() -> None:
    found = [(a.name, b.name) for a, b in inverted_residuals(network())]
    assert found == [("expand", "project"), ("expand2", "project2")]


def convolution(weight: Tensor) -> Convolution:
    weight = weight[:, :, None, None]
    return Convolution(
        name="c", module="c", weight=weight, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1
    )


def squared_error(x: Tensor, weight: Tensor, alpha: Tensor, bits: int) -> float:
    """By definition, in double precision."""
    rows, weight, alpha = x.movedim(1, -1).reshape(-1, x.shape[1]).double(), weight.double(), alpha.double()
    divided, scaled = rows / alpha, weight * alpha
    low, high = divided.min().clamp_max(0), divided.max().clamp_min(0)
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round()
    read = (((divided / scale).round() + zero).clamp(0, 2**bits - 1) - zero) * scale
    unit = scaled.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 0.5)
    kept = (scaled / unit).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * unit
    return float((read @ kept.T - rows @ weight.T).square().mean())


def test_divisors_lower_the_error_of_a_convolution_with_uneven_channels() -> None:
    torch.manual_seed(1)
    channels = 32
    spread = torch.logspace(0.6, -0.6, channels)
    x, weight = torch.randn(4, channels, 8, 8) * spread.reshape(-1, 1, 1), torch.randn(6, channels)
    for bits in (8, 6):
        alpha = learn_divisor(x, convolution(weight), weight_bits=bits, activation_bits=bits, seed=0)
        found = squared_error(x, weight, alpha, bits)
        assert found < 0.6 * squared_error(x, weight, torch.ones(channels), bits)
        powers = [squared_error(x, weight, spread**p, bits) for p in torch.linspace(0, 1, 21).tolist()]
        assert found < 1.3 * min(powers)


def test_t5_dividing_inputs_leaves_the_function_and_says_where_it_costs() -> None:
    net, data = network(), calibration()
    before = net(data.images)
    spec = QuantizationSpec(method="hyq", weights=6, activations=6)
    HYQ.calibrate(net, operators_to_quantize(net, spec), data, spec)
    with net.only([]):
        torch.testing.assert_close(net(data.images), before, rtol=1e-4, atol=1e-5)
    costs = [text for text in net.float_functions if "mul" in text]
    assert {text.split(":")[0] for text in costs} <= {"expand", "project", "expand2", "project2"}
    assert costs
    for operator in net.operators.values():  # no scale runs along the channels of a sum
        for quantizer in operator.input_quantizers:
            assert quantizer is None or (isinstance(quantizer, UniformQuantizer) and quantizer.axis is None)
    assert (net(data.images) - before).square().mean() / before.var() < 0.05


def test_t9_depthwise_convolutions_behind_silu_begin_at_its_minimum() -> None:
    net, data = network(), calibration()
    spec = QuantizationSpec(method="hyq")
    HYQ.calibrate(net, operators_to_quantize(net, spec), data, spec)
    behind, other = (net.operator(name).input_quantizers[0] for name in ("depthwise", "depthwise2"))
    assert isinstance(behind, UniformQuantizer)
    assert isinstance(other, UniformQuantizer)
    assert float(behind.low) == pytest.approx(-0.278465, abs=float(behind.scale) / 2)
    assert float(other.low) == 0


def test_full_scope_has_a_linear_integer_softmax_and_partial_scope_has_none() -> None:
    for scope, kind in (("partial", Softmax), ("full", IntegerSoftmax)):
        net, data = network(), calibration()
        spec = QuantizationSpec.model_validate({"method": "hyq", "scope": scope})
        HYQ.calibrate(net, operators_to_quantize(net, spec), data, spec)
        (softmax,) = (o for o in net.operators.values() if isinstance(o, Softmax))
        assert type(softmax) is kind
        if isinstance(softmax, IntegerSoftmax):
            assert softmax.exponential is linear
            assert softmax.logarithm is None
        assert not any(isinstance(o, Norm) for o in net.operators.values())


@settings(max_examples=12, deadline=None)
@given(
    size=st.sampled_from([0.0, 1e-20, 1.0, 1e15]),
    weights=st.sampled_from([0.0, 1.0]),
    bits=st.sampled_from([2, 8]),
    offset=st.sampled_from([0.0, 2.0]),
)
def test_divisors_are_finite_and_never_near_zero(
    size: float, weights: float, bits: int, offset: float
) -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(2, 3, 4, 4) + offset) * size, torch.randn(2, 3) * weights
    alpha = learn_divisor(x, convolution(weight), weight_bits=bits, activation_bits=bits, seed=0)
    assert torch.isfinite(alpha).all()
    assert (alpha >= 0.05).all()
