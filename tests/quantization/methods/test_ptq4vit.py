from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture, quantize
from pocketvit.quantization.calibration import float_logits, output_gradients, samples
from pocketvit.quantization.methods import ptq4vit
from pocketvit.quantization.methods.easyquant import cover, symmetric
from pocketvit.quantization.operators import Convolution, MatMul
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.search import factors
from pocketvit.quantization.twin import TwinUniformQuantizer

SIZE, IMAGES = 8, 6
GRID = factors(0.01, 1.2, 100)


class Block(nn.Module):
    """Convolutions behind SiLU, Hardswish, GELU and ReLU, and softmax attention with two heads."""

    def __init__(self, *, dim: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 3, 2, 1)
        self.after_silu = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.after_hardswish = nn.Conv2d(dim, dim, 1)
        self.after_relu = nn.Linear(dim, 3 * dim)
        self.after_gelu = nn.Linear(dim, 3)
        with torch.no_grad():
            for parameter in self.parameters():  # so that images differ in their logits, as after training
                parameter.mul_(3 if parameter.dim() > 1 else 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_silu(nn.functional.silu(self.stem(x)))
        x = self.after_hardswish(nn.functional.hardswish(2 * x))
        x = nn.functional.relu(x).flatten(2).mT
        q, k, v = self.after_relu(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind()
        y = ((4 * q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.after_gelu(nn.functional.gelu(y)).mean(1)


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    torch.manual_seed(0)
    return capture(Block(), size=SIZE)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration(torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))


def attended(network: QuantizedNetwork) -> MatMul:
    """The product of softmax and values."""
    return [o for o in network.operators.values() if isinstance(o, MatMul)][-1]


def gradients_and_samples(network, calibration, spec):
    """What the method searches with, from its parts."""
    start = quantize(network, QuantizationSpec(method="minmax", keep_float=("*",)), calibration)
    operators = [o for o in start.operators.values() if o.in_partial_scope]
    found = {o.name: (o, s) for o, s in samples(start, calibration, operators)}
    for operator, sample in found.values():
        cover(operator, sample, spec)
    return output_gradients(start, calibration, operators, float_logits(start, calibration)), found


def test_t1_gradients_come_from_the_quantized_network(network, calibration, monkeypatch):
    seen = []

    def spy(network, calibration, operators, target):
        gradients = output_gradients(network, calibration, operators, target)
        with network.only([]):
            noise = output_gradients(network, calibration, operators, target)
        seen.append((all(o.has_quantizers for o in operators), dict(gradients), noise))
        return gradients

    monkeypatch.setattr(ptq4vit, "output_gradients", spy)
    quantize(network, QuantizationSpec(method="ptq4vit"), calibration)
    ((quantized, gradients, noise),) = seen
    assert quantized
    largest, nothing = (max(float(g.abs().max()) for g in gs.values()) for gs in (gradients, noise))
    assert largest > 1e-4
    assert nothing < 1e-3 * largest


def test_t1_a_gradient_of_zero_kills_no_layer(network, calibration, monkeypatch):
    """With no preference among scales, the one nearest to the whole range stays, not 0.01 of it."""

    def flat(network, calibration, operators, target):
        real = output_gradients(network, calibration, operators, target)
        return {name: torch.zeros_like(g) for name, g in real.items()}

    monkeypatch.setattr(ptq4vit, "output_gradients", flat)
    quantized = quantize(network, QuantizationSpec(method="ptq4vit"), calibration)
    base = quantize(network, QuantizationSpec(method="minmax", keep_float=("*",)), calibration)
    for operator, sample in samples(base, calibration):
        found = quantized.operator(operator.name)
        if isinstance(found.weight_quantizer, UniformQuantizer):
            cover(operator, sample, QuantizationSpec())
            ratio = found.weight_quantizer.scale / operator.weight_quantizer.scale
            assert (ratio - 1).abs().max() < 0.01
    agreement = torch.corrcoef(
        torch.stack([quantized(calibration.images).flatten(), base(calibration.images).flatten()])
    )
    assert agreement[0, 1] > 0.98


def test_twins_stand_behind_softmax_and_dipping_functions_only(network, calibration):
    quantized = quantize(network, QuantizationSpec(method="ptq4vit"), calibration)
    twins = {
        (name, index)
        for name, o in quantized.operators.items()
        for index, q in enumerate(o.input_quantizers)
        if isinstance(q, TwinUniformQuantizer)
    }
    assert twins == {
        ("after_silu", 0),
        ("after_hardswish", 0),
        ("after_gelu", 0),
        (attended(network).name, 0),
    }
    assert attended(quantized).input_quantizers[1].axis == 1  # the values have a scale a head


@pytest.mark.parametrize("bits", [6, 8])
def test_t9_negative_steps(network, calibration, bits):
    spec = QuantizationSpec(method="ptq4vit", weights=bits, activations=bits)
    quantized = quantize(network, spec, calibration)
    lowest = {"after_silu": 0.278465, "after_hardswish": 0.375, "after_gelu": 0.16997124}
    for name, value in lowest.items():
        (twin,) = quantized.operator(name).input_quantizers
        assert float(twin.low.scale) == pytest.approx(value / 2 ** (bits - 1), rel=1e-4)
        assert twin.bits == bits


@pytest.mark.parametrize("bits", [4, 8])
def test_t3_the_split_against_exhaustive_search(network, calibration, bits):
    spec = QuantizationSpec(method="ptq4vit", weights=bits, activations=bits)
    quantized = quantize(network, spec, calibration)
    gradients, found = gradients_and_samples(network, calibration, spec)
    operator = attended(quantized)
    _, sample = found[operator.name]
    gradient = gradients[operator.name].double()
    weights, values = sample.inputs
    values = operator.input_quantizers[1](values).double()
    steps = 2 ** (bits - 1) - 1

    def loss(split: float) -> float:
        low = (weights.double() * steps / split).round().clamp(0, steps) * split / steps
        high = (weights.double() * steps).round() / steps
        output = torch.where(weights >= split, high, low) @ values
        return float(((output - sample.output) * gradient).square().mean())

    losses = {2.0**-i: loss(2.0**-i) for i in range(20)}
    chosen = float(operator.input_quantizers[0].boundary)
    assert losses[chosen] <= min(losses.values()) * 1.001
    # A formula without the mask would be driven to tiny splits; the mass of softmax is far above them.
    assert chosen >= 2.0**-8


@pytest.mark.parametrize("name", ["stem", "after_silu"])
def test_t2_weights_against_exhaustive_search(network, calibration, name):
    spec = QuantizationSpec(method="ptq4vit", weights=4, activations=6)
    quantized = quantize(network, spec, calibration)
    gradients, found = gradients_and_samples(network, calibration, spec)
    operator = quantized.operator(name)
    assert isinstance(operator, Convolution)
    _, sample = found[name]
    gradient = gradients[name].double()
    # The last search of the weights was with the inputs as they are, or the inputs changed after it: then one
    # more search of the inputs would follow. With three rounds both have settled here.
    x = operator.quantized_inputs(sample.inputs)[0].double()
    base = symmetric(operator.weight, bits=4, axis=0).scale.double()
    for channel in range(len(base)):

        def loss(scale: Tensor, channel: int = channel) -> float:
            tried = operator.weight.double().clone()
            tried[channel] = scale * (tried[channel] / scale).round().clamp(-8, 7)
            output = nn.functional.conv2d(
                x, tried, operator.bias.double(), operator.stride, operator.padding, groups=operator.groups
            )
            return float(((output - sample.output) * gradient)[:, channel].square().mean())

        best = min(loss(base[channel] * factor) for factor in GRID)
        assert loss(operator.weight_quantizer.scale[channel].double()) <= best * 1.001


def test_positive_scale_behind_silu_against_exhaustive_search(network, calibration):
    spec = QuantizationSpec(method="ptq4vit", weights=6, activations=4)
    quantized = quantize(network, spec, calibration)
    gradients, found = gradients_and_samples(network, calibration, spec)
    operator = quantized.operator("after_silu")
    _, sample = found["after_silu"]
    (x,) = sample.inputs
    x, weight = x.double(), operator.quantized_weight().double()
    step = 0.278465 / 8
    negative = (x / step).round().clamp(-8, 0) * step

    def loss(scale: float) -> float:
        read = torch.where(x >= 0, (x / scale).round().clamp(0, 7) * scale, negative)
        output = nn.functional.conv2d(read, weight, operator.bias.double(), padding=1, groups=4)
        return float(((output - sample.output) * gradients["after_silu"].double()).square().mean())

    best = min(loss(float(x.max()) / 7.5 * factor) for factor in GRID)
    assert loss(float(operator.input_quantizers[0].high.scale)) <= best * 1.001


@pytest.mark.parametrize("scope", ["partial", "full"])
def test_fewer_bits_cost_less_than_with_the_whole_range(network, scope):
    images = torch.randn(24, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = network(images).softmax(-1)

    def loss(method: str, weights: int) -> float:
        spec = QuantizationSpec(method=method, weights=weights, activations=8, scope=scope)
        quantized = quantize(network, spec, Calibration(images))
        assert all(
            o.has_quantizers == (scope == "full" or o.in_partial_scope) for o in quantized.operators.values()
        )
        with torch.no_grad():
            found = quantized(images).log_softmax(-1)
        return float(nn.functional.kl_div(found, wanted, reduction="batchmean"))

    assert loss("ptq4vit", 8) < 1e-3
    assert loss("ptq4vit", 4) < 0.7 * loss("minmax", 4)
