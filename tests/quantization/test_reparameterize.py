from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pocketvit
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import QuantizedNetwork, capture
from pocketvit.quantization.operators import Convolution, Norm
from pocketvit.quantization.reparameterize import (
    divide_input,
    norm_readers,
    norms_with_linear_readers,
    shift_norm_outputs,
)

DIM = 6


class Tokens(nn.Module):
    """LayerNorm over tokens, read by two linear maps through reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 4, 4)
        self.norm = nn.LayerNorm(DIM)
        self.first, self.second = nn.Linear(DIM, 5), nn.Linear(DIM, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x).flatten(2).transpose(1, 2))
        y = y.reshape(-1, 2, 8, DIM).reshape(-1, DIM)
        return (self.first(y) * self.second(y)).reshape(x.shape[0], -1)


class Separable(nn.Module):
    """GroupNorm over a map, read by scores, by means and by a 1×1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 4, 4)
        self.norm = nn.GroupNorm(1, DIM)
        self.score, self.key = nn.Parameter(torch.randn(1, DIM)), nn.Linear(DIM, DIM)
        self.value, self.head = nn.Conv2d(DIM, DIM, 1), nn.Linear(DIM, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        tokens = y.flatten(2)
        weights = (self.score @ tokens).softmax(-1)
        context = self.key(weights @ tokens.transpose(1, 2))
        attended = (functional.relu(self.value(y)).flatten(2) * context.transpose(1, 2)).flatten(2)
        return attended.mean(-1)[:, :3] + self.head(y.mean((2, 3)))


class Inverted(nn.Module):
    """What stands before a 1×1 convolution: a convolution of its own, or a sum that others read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, DIM, 4, 4), nn.Conv2d(DIM, DIM, 3, padding=1)
        self.expand, self.head = nn.Conv2d(DIM, 9, 1), nn.Conv2d(9, DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.second(self.stem(x)))
        return (x + self.head(self.expand(x))).flatten(1)


class Read(nn.Module):
    """A GroupNorm and whatever reads it."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.reader = nn.Conv2d(3, DIM, 4, 4), nn.GroupNorm(1, DIM), reader

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(self.norm(self.stem(x))).flatten(1)


class WithResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv2d(DIM, DIM, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


class Mean(nn.Module):
    """A weighted mean whose weights do not add up to 1."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return tokens.mean(1, keepdim=True).sigmoid() @ tokens.transpose(1, 2)


class Sum(nn.Module):
    """A sum of pixels, which multiplies a shift by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.sum((2, 3)))


def network(model: nn.Module, size: int = 16) -> QuantizedNetwork:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return capture(model.eval(), size=size)


def norm_of(net: QuantizedNetwork) -> Norm:
    (norm,) = (o for o in net.operators.values() if isinstance(o, Norm))
    return norm


@pytest.mark.parametrize(("model", "count"), [(Tokens, 2), (Separable, 4)])
def test_shifting_a_norm_changes_its_output_but_not_the_network(model: type[nn.Module], count: int) -> None:
    net = network(model()).double()
    image = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    before, norm = net(image), norm_of(net)
    assert len(norm_readers(net, norm)) == count
    x = torch.randn(2, DIM, 4, 4, dtype=torch.float64)
    x = x if norm.groups else x.flatten(2).mT
    y = norm(x)
    ratio, shift = torch.rand(DIM).double() * 3 + 0.1, torch.randn(DIM).double() * 4
    shift_norm_outputs(net, norm, ratio, shift)
    along = (-1, 1, 1) if norm.groups else (-1,)
    torch.testing.assert_close(norm(x), (y - shift.reshape(along)) / ratio.reshape(along))
    torch.testing.assert_close(net(image), before, rtol=1e-10, atol=1e-10)
    assert net.float_functions == capture(model().eval(), size=16).float_functions


@pytest.mark.parametrize(
    "reader",
    [
        WithResidual(),
        Mean(),
        nn.SiLU(),
        nn.Conv2d(DIM, DIM, 1, groups=2),
        nn.Conv2d(DIM, DIM, 3, padding=1),
        nn.Conv2d(DIM, DIM, 1, padding=1),
        nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(DIM, DIM, 1)),
        nn.Sequential(nn.Flatten(2), nn.Linear(16, 4)),
        Sum(),
        nn.Sequential(nn.ChannelShuffle(2), nn.Conv2d(DIM, DIM, 1)),
        nn.Sequential(nn.Flatten(1), nn.Linear(DIM * 16, 4)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_norm_whose_readers_cannot_take_a_shift_is_left_alone(reader: nn.Module) -> None:
    net = network(Read(reader))
    norm = norm_of(net)
    assert norm_readers(net, norm) == []
    assert norms_with_linear_readers(net) == {}
    with pytest.raises(ValueError, match="norm"):
        shift_norm_outputs(net, norm, torch.ones(DIM), torch.zeros(DIM))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norms"), [("mobilevit_xxs", 21), ("mobilevitv2_050", 21)])
def test_every_norm_of_a_hybrid_can_be_shifted(name: str, norms: int) -> None:
    model = pocketvit.create_model(name, num_classes=7).eval()
    net = prepare_for_quantization(model, size=64).double()
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = norms_with_linear_readers(net)
    assert len(found) == norms == sum(isinstance(o, Norm) for o in net.operators.values())
    before = net(image)
    for norm in found:
        ratio = torch.rand(norm.channels).double() + 0.5
        shift_norm_outputs(net, norm, ratio, torch.randn(norm.channels).double())
    torch.testing.assert_close(net(image), before, rtol=1e-8, atol=1e-8)


def test_dividing_an_input_is_free_behind_a_convolution_and_a_function_elsewhere() -> None:
    net = network(Inverted()).double()
    image = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = net(image)
    for name, free in (("head", True), ("expand", False)):
        operator = net.operator(name)
        assert isinstance(operator, Convolution)
        assert operator.weight is not None
        seen: list[Tensor] = []
        hook = operator.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        net(image)
        alpha = torch.rand(operator.weight.shape[1]).double() + 0.3
        assert divide_input(net, operator, alpha) is free
        torch.testing.assert_close(net(image), before, rtol=1e-10, atol=1e-10)
        hook.remove()
        torch.testing.assert_close(seen[1], seen[0] / alpha.reshape(-1, 1, 1))
    assert net.float_functions == ("expand: mul with a constant",)

    assert len(net.readers_of(("expand", 0))) == 1


def test_a_grouped_convolution_keeps_its_channels() -> None:
    net = network(Read(nn.Conv2d(DIM, DIM, 3, groups=DIM)))
    operator = net.operator("reader")
    assert isinstance(operator, Convolution)
    with pytest.raises(ValueError, match="grouped"):
        divide_input(net, operator, torch.ones(DIM))
