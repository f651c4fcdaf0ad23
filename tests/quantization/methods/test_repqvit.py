from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture
from pocketvit.quantization.calibration import samples
from pocketvit.quantization.logarithmic import LogarithmicQuantizer
from pocketvit.quantization.methods.repqvit import (
    REPQVIT,
    REPQVIT_INTEGER,
    asymmetric,
    central_range,
    equalize_norms,
    powers_of_root_two,
)
from pocketvit.quantization.operators import Convolution, Linear, MatMul, Norm
from pocketvit.quantization.quantize import operators_to_quantize
from pocketvit.quantization.quantizers import UniformQuantizer

DIM = 8


class Hybrid(nn.Module):
    """A convolution, self-attention over tokens and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, DIM, 4, 4), nn.LayerNorm(DIM)
        self.query, self.key, self.value = (nn.Linear(DIM, DIM) for _ in range(3))
        self.head = nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        weights = (self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        return self.head((tokens + weights @ self.value(y)).mean(1))


class Separable(nn.Module):
    """A GroupNorm over a map, read by two 1×1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, DIM, 4, 4), nn.GroupNorm(1, DIM)
        self.first, self.second = nn.Conv2d(DIM, DIM, 1), nn.Conv2d(DIM, DIM, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        return (self.first(y) * self.second(y)).mean((2, 3))


def network(model: nn.Module) -> QuantizedNetwork:
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):  # channels of very different ranges
                module.weight.copy_(torch.logspace(-1.5, 1, DIM))
                module.bias.copy_(torch.randn(DIM) * 3)
    return capture(model.eval(), size=16)


def calibration() -> Calibration:
    return Calibration(torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("model", [Hybrid, Separable])
@pytest.mark.parametrize("bits", [8, 6])
def test_one_scale_after_the_change_rounds_as_many_did_before(model: type[nn.Module], bits: int) -> None:
    net, data = network(model()), calibration()
    spec = QuantizationSpec(method="repqvit", weights=bits, activations=bits)
    (norm,) = (o for o in net.operators.values() if isinstance(o, Norm))
    ((_, before),) = samples(net, data, [norm])
    axis = norm.channel_axis(before.output)
    many = central_range(before.output, bits=bits, axis=axis, grid=asymmetric)
    logits = net(data.images)
    shared = equalize_norms(net, operators_to_quantize(net, spec), data, spec)
    torch.testing.assert_close(net(data.images), logits, rtol=1e-4, atol=1e-5)
    assert set(shared) == {o for o in net.sources if net.producer(o) is norm}
    ((_, after),) = samples(net, data, [norm])
    one = next(iter(shared.values()))
    assert one.axis is None
    assert one.qmin <= float(one.zero_point) <= one.qmax
    # the integers differ by the shift of the zero point, wherever neither was clipped
    apart = [-1 if i == axis else 1 for i in range(before.output.dim())]
    raw = (before.output / many.scale.reshape(apart)).round() + many.zero_point.reshape(apart)
    now = (after.output / one.scale).round() + one.zero_point
    assert (raw == now).float().mean() > 0.999


@pytest.mark.parametrize("method", [REPQVIT, REPQVIT_INTEGER], ids=lambda m: m.name)
def test_t11_convolutions_read_the_width_that_was_asked_for(method: object) -> None:
    net, data = network(Hybrid()), calibration()
    spec = QuantizationSpec(method="repqvit", weights=4, activations=6)
    operators = operators_to_quantize(net, spec)
    (REPQVIT if method is REPQVIT else REPQVIT_INTEGER).calibrate(net, operators, data, spec)
    assert any(isinstance(o, Convolution) for o in operators)
    for operator in operators:
        assert {q.bits for q in operator.input_quantizers if q is not None} == {6}
        if isinstance(operator, Convolution | Linear):
            assert operator.weight_quantizer is not None
            assert operator.weight_quantizer.bits == 4
    assert not any(o.has_quantizers for o in net.operators.values() if o not in operators)


def test_attention_is_in_powers_of_the_root_of_two_or_uniform() -> None:
    for method, kind in ((REPQVIT, LogarithmicQuantizer), (REPQVIT_INTEGER, UniformQuantizer)):
        net, data = network(Hybrid()), calibration()
        spec = QuantizationSpec(method=method.name)
        method.calibrate(net, operators_to_quantize(net, spec), data, spec)
        products = [o for o in net.operators.values() if isinstance(o, MatMul)]
        assert [type(o.input_quantizers[0]) for o in products] == [UniformQuantizer, kind]
        wanted = capture_logits(data)
        error = (net(data.images) - wanted).square().mean() / wanted.var()
        assert error < 1e-2


def capture_logits(data: Calibration) -> Tensor:
    with torch.no_grad():
        return network(Hybrid())(data.images)


def test_the_integer_variation_has_weights_around_zero_and_zero_points_that_fit() -> None:
    net, data = network(Hybrid()), calibration()
    spec = QuantizationSpec(method="repqvit_integer")
    REPQVIT_INTEGER.calibrate(net, operators_to_quantize(net, spec), data, spec)
    for operator in net.operators.values():
        for quantizer in operator.input_quantizers:
            assert quantizer is None or isinstance(quantizer, UniformQuantizer)
            assert quantizer is None or quantizer.axis is None
            assert quantizer is None or 0 <= float(quantizer.zero_point) <= 255
        weights = operator.weight_quantizer
        assert weights is None or (isinstance(weights, UniformQuantizer) and not weights.zero_point.any())


def test_a_reader_that_stays_in_float_leaves_its_norm_alone() -> None:
    net, data = network(Hybrid()), calibration()
    spec = QuantizationSpec(method="repqvit", keep_float=("key",))
    before = net.operator("norm/norm").state_dict()
    REPQVIT.calibrate(net, operators_to_quantize(net, spec), data, spec)
    after = net.operator("norm/norm").state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert not net.operator("key").has_quantizers


def test_ranges_are_the_best_of_three_by_exhaustive_search() -> None:
    torch.manual_seed(3)
    x = torch.randn(3, 20_000) * torch.tensor([[1.0], [5.0], [0.1]])
    x[0, 0], x[1, 1] = 30.0, -300.0
    chosen = central_range(x, bits=6, axis=0, grid=asymmetric)
    for row in range(3):
        values, _ = x[row].double().sort()
        best = (torch.inf, 0.0)
        for share in (0.999, 0.9999, 0.99999):
            low, high = (float(values[round(q * (len(values) - 1))]) for q in (1 - share, share))
            scale = (high - low) / 63
            zero = round(-low / scale)
            rounded = ((values / scale).round() + zero).clamp(0, 63) - zero
            best = min(best, (float((rounded * scale - values).square().mean()), scale))
        assert float(chosen.scale[row]) == pytest.approx(best[1], rel=1e-5)


def test_the_largest_power_is_the_best_of_three() -> None:
    torch.manual_seed(4)
    x = torch.randn(4, 5000).softmax(-1)
    errors = []
    for share in (0.999, 0.9999, 0.99999):
        scale = x.flatten().sort().values[round(share * (x.numel() - 1))]
        quantizer = LogarithmicQuantizer(scale=scale, bits=4, steps=2)
        errors.append(float((quantizer(x) - x).square().mean()))
    found = powers_of_root_two(x, bits=4)
    assert float((found(x) - x).square().mean()) == pytest.approx(min(errors))


@settings(max_examples=30, deadline=None)
@given(
    bits=st.sampled_from([2, 6, 8]),
    offset=st.sampled_from([0.0, 3.0, -1e6, 1e30]),
    spread=st.sampled_from([0.0, 1e-12, 1.0, 1e30]),
    axis=st.sampled_from([None, 0]),
)
def test_t4_ranges_that_do_not_contain_zero_are_kept(
    bits: int, offset: float, spread: float, axis: int | None
) -> None:
    torch.manual_seed(0)
    x = offset + spread * torch.rand(3, 50)
    quantizer = asymmetric(*(x.aminmax() if axis is None else x.aminmax(dim=1)), bits=bits, axis=axis)
    found = quantizer(x)
    assert torch.isfinite(found).all()
    assert (quantizer.zero_point.abs() <= 2**15 + 2**bits).all()
    # never worse than with 0 in the range
    wide = UniformQuantizer.from_range(x.min(), x.max(), bits=bits)
    reach = float((wide.high - wide.low).double()) / (2**bits - 1)
    assert ((found.double() - x.double()).abs() <= 0.51 * reach + 1e-6 * x.double().abs()).all()


def test_a_dead_channel_and_a_constant_network_stay_finite() -> None:
    net = network(Hybrid())
    norm = net.operator("norm/norm")
    assert isinstance(norm, Norm)
    assert norm.weight is not None
    assert norm.bias is not None
    weight, bias = norm.weight.clone(), norm.bias.clone()
    weight[0] = weight[1] = bias[0] = 0
    norm.set_affine(weight, bias)
    for images in (calibration().images, torch.zeros(2, 3, 16, 16)):
        for bits in (8, 4):
            fresh = network(Hybrid())
            copy = fresh.operator("norm/norm")
            assert isinstance(copy, Norm)
            copy.set_affine(weight, bias)
            before = fresh(images)
            spec = QuantizationSpec(method="repqvit", weights=bits, activations=bits, scope="full")
            REPQVIT.calibrate(fresh, operators_to_quantize(fresh, spec), Calibration(images), spec)
            assert torch.isfinite(fresh(images)).all()
            with fresh.only([]):
                torch.testing.assert_close(fresh(images), before, rtol=1e-3, atol=1e-4)
