"""The search with its shortcuts against trying everything in double precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pocketvit.quantization import ranges
from pocketvit.quantization.bridges import Remainder
from pocketvit.quantization.calibration import Calibration, Sample, samples
from pocketvit.quantization.capture import capture
from pocketvit.quantization.operators import Convolution, Operator
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.reconstruction import Reconstruction, search_scales
from pocketvit.quantization.search import factors

GRID = factors(0.01, 1.2, 100)
IMAGES = 7


def depthwise(weight: Tensor) -> Convolution:
    channels = len(weight)
    return Convolution(
        name="c",
        module="c",
        weight=weight,
        bias=None,
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=channels,
    )


def dense(weight: Tensor) -> Convolution:
    return Convolution(
        name="c",
        module="c",
        weight=weight,
        bias=None,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
    )


def rounded(x: Tensor, scale: Tensor, zero: Tensor, base: UniformQuantizer) -> Tensor:
    """In double precision, written out."""
    whole = (x.double() / scale).round() + zero
    return (whole.clamp(base.qmin, base.qmax) - zero) * scale


def exhaustive(operator: Operator, x: Tensor, target: Tensor, g: Tensor, base: UniformQuantizer) -> Tensor:
    """Losses (factors, channels) of every candidate for the input, all images at once."""
    shape = (1, -1, 1, 1) if base.axis == 1 else ()
    losses: list[Tensor] = []
    for factor in GRID:
        scale = (base.scale * factor).double().reshape(shape)
        read = rounded(x, scale, base.zero_point.double().reshape(shape), base)
        assert operator.weight is not None
        error = g.double() * (operator.compute([read], operator.weight.double()) - target.double())
        losses.append(error.square().sum(dim=(0, 2, 3)))
    return torch.stack(losses)


def scored(operator: Operator, x: Tensor, g: Tensor) -> tuple[Reconstruction, Tensor]:
    target = operator.compute([x], operator.weight)
    sample = Sample((x,), target)
    return Reconstruction(operator, sample, images=len(x), targets=[target], gradients=[g]), target


@pytest.mark.parametrize("scheme", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [4, 8])
def test_one_scale_against_exhaustive_search(scheme: str, bits: int) -> None:
    torch.manual_seed(bits)
    operator, x = dense(torch.randn(5, 4, 1, 1)), torch.randn(IMAGES, 4, 6, 6).abs() - 0.2
    g = torch.randn(IMAGES, 5, 6, 6) * 1e-6
    score, target = scored(operator, x, g)
    base = ranges.minmax(x, bits=bits, scheme=scheme)  # pyright: ignore
    found, loss = search_scales(base, GRID, score.of_input(0, keep=None))
    losses = exhaustive(operator, x, target, g, base).sum(dim=1)
    chosen = float(losses[(torch.tensor(GRID) - float(found.scale / base.scale)).abs().argmin()])
    assert chosen <= float(losses.min()) * (1 + 1e-4)
    assert loss == pytest.approx(chosen / float(g.abs().max()) ** 2, rel=1e-3)


def test_a_scale_for_each_channel_against_exhaustive_search() -> None:
    torch.manual_seed(0)
    operator = depthwise(torch.randn(4, 1, 3, 3))
    x = torch.randn(IMAGES, 4, 6, 6) * torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None, None]
    g = torch.randn(IMAGES, 4, 6, 6)
    score, target = scored(operator, x, g)
    base = ranges.minmax(x, bits=4, scheme="asymmetric", axis=1)
    found, _ = search_scales(base, GRID, score.of_input(0, keep=1))
    losses = exhaustive(operator, x, target, g, base)
    picked = [(torch.tensor(GRID) - r).abs().argmin() for r in (found.scale / base.scale).double()]
    for channel, index in enumerate(picked):
        assert float(losses[index, channel]) <= float(losses[:, channel].min()) * (1 + 1e-4)
    assert len({int(index) for index in picked}) > 1, "channels chose for themselves"


def test_weights_a_scale_for_each_output_channel() -> None:
    torch.manual_seed(0)
    operator, x = dense(torch.randn(5, 4, 1, 1)), torch.randn(IMAGES, 4, 6, 6)
    g = torch.randn(IMAGES, 5, 6, 6)
    score, target = scored(operator, x, g)
    assert operator.weight is not None
    base = ranges.minmax(operator.weight, bits=3, scheme="symmetric", axis=0)
    found, loss = search_scales(base, GRID, score.of_weight(keep=1))
    total = 0.0
    for channel in range(5):
        losses: list[float] = []
        for factor in GRID:
            scale = (base.scale[channel] * factor).double()
            weight = rounded(operator.weight[channel], scale, torch.zeros(()), base)
            output = torch.einsum("bchw,c->bhw", x.double(), weight.flatten())
            losses.append(float((g[:, channel] * (output - target[:, channel])).square().sum()))
        index = int((torch.tensor(GRID) - float(found.scale[channel] / base.scale[channel])).abs().argmin())
        assert losses[index] <= min(losses) * (1 + 1e-4)
        total += losses[index]
    assert loss == pytest.approx(total / float(g.abs().max()) ** 2, rel=1e-3)


def test_candidates_are_scored_at_the_end_of_the_bridge() -> None:
    """The loss is that of the whole network run with hooks, operators between quantized as they are."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Conv2d(4, 5, 3, padding=1), nn.Flatten(), nn.Linear(180, 3)
    )
    network = capture(model, size=6)
    calibration = Calibration(torch.randn(IMAGES, 3, 6, 6))
    first, _, last, _ = network.operators.values()
    (_, sample), (_, end) = samples(network, calibration, [first, last])
    last.set_input(0, ranges.minmax(end.inputs[0], bits=4, scheme="asymmetric"))
    g = torch.randn_like(end.output)
    rest = Remainder(network, calibration, start=first, ends=[last])
    score = Reconstruction(
        first, sample, images=IMAGES, targets=rest.float_outputs, gradients=[g], remainder=rest
    )
    torch.testing.assert_close(rest.float_outputs, [end.output])
    quantizer = ranges.minmax(sample.inputs[0], bits=4, scheme="symmetric")
    found = sum(float(part) for part in score.of_input(0, keep=None)(quantizer))

    run = copy.deepcopy(network)
    run.operator(first.name).set_input(0, quantizer)
    outputs: list[Tensor] = []
    run.operator(last.name).register_forward_hook(lambda *call: outputs.append(call[2]))
    with torch.no_grad():
        run(calibration.images)
    wanted = float((g * (outputs[0] - end.output)).square().sum() / g.abs().max() ** 2)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert not score.at_own_output


def test_a_loss_without_preference_keeps_the_whole_range() -> None:
    base = ranges.minmax(torch.randn(10), bits=8, scheme="asymmetric")
    for value in (0.0, float("nan"), float("inf")):
        found, _ = search_scales(base, GRID, lambda _, value=value: [torch.tensor(value)])
        assert float(found.scale / base.scale) == pytest.approx(1, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(["normal", "one-sided", "constant", "zero", "huge", "tiny"]),
    images=st.integers(1, 5),
    channels=st.integers(1, 4),
    bits=st.sampled_from([2, 4, 6, 8]),
    scheme=st.sampled_from(["symmetric", "asymmetric"]),
    apart=st.booleans(),
)
def test_no_tensor_gives_nan_or_a_dead_layer(
    kind: str, images: int, channels: int, bits: int, scheme: str, apart: bool
) -> None:
    torch.manual_seed(images)
    x = torch.randn(images, channels, 4, 4)
    x = {
        "normal": x,
        "one-sided": x.abs() + 3,
        "constant": torch.full_like(x, -2.0),
        "zero": torch.zeros_like(x),
        "huge": x * 1e15,
        "tiny": x * 1e-15,
    }[kind]
    operator = depthwise(torch.randn(channels, 1, 3, 3))
    score, target = scored(operator, x, torch.randn(images, channels, 4, 4))
    base = ranges.minmax(x, bits=bits, scheme=scheme, axis=1 if apart else None)  # pyright: ignore
    found, _ = search_scales(base, GRID, score.of_input(0, keep=1 if apart else None))
    output = operator.compute([found(x)], operator.weight)
    assert torch.isfinite(output).all()
    assert bool(found.scale.isfinite().all())
    if kind != "zero" and bits >= 4:
        assert float((output - target).norm() / target.norm()) < 0.5, "the layer is not dead"
