"""Channel equalization: the function stays, channels of a tensor reach equally far, and integers gain."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import pocketvit
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture, quantize
from pocketvit.quantization.diagnosis import diagnose
from pocketvit.quantization.equalization import equalize, equalize_like

DIM = 6
IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(4))
UNEQUAL = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])


class Chain(nn.Module):
    """1×1, depthwise with zeros around, ReLU, a grouped convolution, a mean of pixels, a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, DIM, 1), nn.Conv2d(DIM, DIM, 3, padding=1, groups=DIM)
        self.grouped, self.head = nn.Conv2d(DIM, 4, 3, groups=2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(functional.relu(self.depthwise(self.first(x)))).mean((2, 3)))


class Residual(nn.Module):
    """A sum, read as it is and through a branch that ends in a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, DIM, 4, 4), nn.Conv2d(DIM, DIM, 1)
        self.gate, self.third, self.head = nn.Conv2d(DIM, 1, 1), nn.Conv2d(DIM, DIM, 1), nn.Conv2d(DIM, 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.second(functional.silu(self.third(x)))
        y = x * self.gate(x).sigmoid()
        both = torch.cat([x, y], dim=1).chunk(2, dim=1)
        return self.head(both[0] + both[1]).flatten(1)


class Attention(nn.Module):
    """Tokens: a norm read by query, key and value, values summed by softmax, then projected."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, DIM, 4, 4), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        weights = (0.3 * query @ key.transpose(1, 2)).softmax(-1)
        return self.proj(weights @ value).mean(1)


def network(model: nn.Module) -> QuantizedNetwork:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for name in ("first", "norm"):
        layer = getattr(model, name, None)
        if layer is not None:
            with torch.no_grad():
                layer.weight.mul_(UNEQUAL.reshape([-1, *[1] * (layer.weight.dim() - 1)]))
                layer.bias.mul_(UNEQUAL)
    return capture(model.eval(), size=16).double()


def equalized(net: QuantizedNetwork, **options: float) -> QuantizedNetwork:
    net = copy.deepcopy(net)
    equalize(net, list(net.operators.values()), Calibration(IMAGES.double()), **options)
    return net


def reach(net: QuantizedNetwork, name: str, index: int = 0) -> Tensor:
    """The largest |x| of each channel that an operator reads."""
    found: list[Tensor] = []
    operator = net.operator(name)
    hook = operator.register_forward_hook(lambda _, inputs, __: found.append(inputs[index]))
    net(IMAGES.double())
    hook.remove()
    return found[0].movedim(operator.channel_axis(found[0]), 0).flatten(1).abs().amax(dim=1)


@pytest.mark.parametrize("model", [Chain, Residual, Attention])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_the_function_stays_and_weights_do_not(model: type[nn.Module], power: float) -> None:
    net = network(model())
    moved = equalized(net, power=power)
    torch.testing.assert_close(moved(IMAGES.double()), net(IMAGES.double()), rtol=1e-9, atol=1e-9)
    changed = [
        name
        for name, o in net.operators.items()
        if o.weight is not None and not torch.equal(o.weight, moved.operator(name).weight)
    ]
    assert len(changed) >= 2


@pytest.mark.parametrize(("model", "name"), [(Chain, "depthwise"), (Attention, "qkv")])
def test_channels_read_by_one_reach_equally_far(model: type[nn.Module], name: str) -> None:
    net = network(model())
    before, after = reach(net, name), reach(equalized(net), name)
    assert before.max() / before.min() > 1.5
    torch.testing.assert_close(after, after.max().expand_as(after), rtol=1e-6, atol=0.0)


def test_alpha_is_the_mean_reach_of_all_that_is_tied() -> None:
    net = network(Residual())
    moved = equalized(net)
    before, after = (n.operator("first").weight.flatten(1) for n in (net, moved))
    alpha = (before / after)[:, 0]
    torch.testing.assert_close(before / alpha[:, None], after)
    reads = [("third", 0), ("/addition", 0), ("/addition", 1), ("gate", 0), ("/multiplication", 0)]
    reads += [("/addition-2", 0), ("/addition-2", 1), ("head", 0)]
    shares = [reach(net, name, index) for name, index in reads]
    wanted = torch.stack([share / share.max() for share in shares]).log().mean(dim=0).exp()
    torch.testing.assert_close(alpha, wanted, rtol=1e-6, atol=0.0)


def test_what_a_silu_reads_or_a_norm_reads_is_not_scaled() -> None:
    for model, name in ((Residual(), "third"), (Attention(), "stem")):
        net = network(model)
        moved = equalized(net).operator(name)
        assert torch.equal(moved.bias, net.operator(name).bias)


def test_a_channel_that_is_always_zero_stays() -> None:
    model = Chain()
    net = network(model)
    with torch.no_grad():
        net.operator("first").weight[2] = 0
        net.operator("first").bias[2] = 0
    moved = equalized(net)
    assert all(torch.isfinite(o.weight).all() for o in moved.operators.values() if o.weight is not None)
    torch.testing.assert_close(moved(IMAGES.double()), net(IMAGES.double()), rtol=1e-9, atol=1e-9)


@settings(max_examples=10)
@given(st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4]), min_size=DIM, max_size=DIM))
def test_no_scale_is_nan_or_extreme(factors: list[float]) -> None:
    net = network(Chain())
    with torch.no_grad():
        net.operator("first").weight.mul_(torch.tensor(factors).reshape(-1, 1, 1, 1))
        net.operator("first").bias.mul_(torch.tensor(factors))
    before, moved = net.operator("first").weight, equalized(net).operator("first").weight
    ratio = (before / moved)[before != 0]
    assert torch.isfinite(moved).all()
    assert ((ratio > 1 / 65) & (ratio < 1.001)).all()


@pytest.mark.parametrize("model", [Chain, Residual, Attention])
def test_another_network_can_follow(model: type[nn.Module]) -> None:
    net = network(model())
    moved, other = equalized(net), copy.deepcopy(net)
    equalize_like(other, moved)
    for name, operator in moved.operators.items():
        if operator.weight is not None:
            assert torch.equal(operator.weight, other.operator(name).weight)


@pytest.mark.parametrize(
    "name",
    [
        "mobilevitv2_050",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mobilevit_xxs", "swiftformer_xs", "cas_vit_xs")),
    ],
)
def test_families_compute_the_same(name: str, shallow: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = shallow(pocketvit.create_model(name, num_classes=7)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.5 * torch.randn_like(parameter))
    net = prepare_for_quantization(model, size=64)
    moved, images = copy.deepcopy(net), torch.randn(2, 3, 64, 64)
    equalize(moved, list(moved.operators.values()), Calibration(images))
    wanted = net(images)
    assert (moved(images) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    scaled = [o for o in moved.operators.values() if dict(o.named_buffers(recurse=False))]
    assert len(scaled) > 10


def read_quietly() -> QuantizedNetwork:
    """Channels of 1000 : 1 that are read by weights of 1 : 1000, as behind a norm that was folded."""
    net = network(Chain()).float()
    loud = torch.logspace(3, 0, DIM)
    with torch.no_grad():
        first, depthwise = net.operator("first"), net.operator("depthwise")
        first.weight.mul_((loud / UNEQUAL).reshape(-1, 1, 1, 1))
        first.bias.mul_(loud / UNEQUAL)
        depthwise.weight.div_(loud.reshape(-1, 1, 1, 1))
    return net


def is_equalized(net: QuantizedNetwork) -> bool:
    return any(dict(o.named_buffers(recurse=False)) for o in net.operators.values())


def test_pocket_equalizes_where_it_pays(tiny, calibration) -> None:
    spec = QuantizationSpec(weights=6, activations=6)
    assert is_equalized(quantize(read_quietly(), spec, Calibration(IMAGES)))
    assert not is_equalized(quantize(tiny, spec, calibration))


def test_a_diagnosis_compares_in_the_same_units() -> None:
    net = read_quietly()
    calibration = Calibration(IMAGES)
    quantized = quantize(net, QuantizationSpec(weights=8, activations=8), calibration)
    assert is_equalized(quantized)
    found = diagnose(quantized, calibration, reference=net, worst=0)
    noise = [o.before_db for report in found.operators for o in report.operands if o.before_db is not None]
    assert min(noise) > 20


def test_integers_gain_where_what_is_loud_is_read_quietly() -> None:
    net = network(Chain()).float()
    with torch.no_grad():  # as behind a norm that was folded
        net.operator("depthwise").weight.div_(UNEQUAL.reshape(-1, 1, 1, 1))
    others = tuple(name for name in net.operators if name != "depthwise")
    spec = QuantizationSpec(method="minmax", weights=8, activations=6, keep_float=others)
    wanted, calibration = net(IMAGES), Calibration(IMAGES)
    moved = copy.deepcopy(net)
    equalize(moved, list(moved.operators.values()), calibration)
    plain, ours = (quantize(n, spec, calibration)(IMAGES) for n in (net, moved))
    assert (ours - wanted).square().mean() < 0.3 * (plain - wanted).square().mean()
