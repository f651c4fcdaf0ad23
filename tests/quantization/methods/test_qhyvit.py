"""Q-HyViT in the paper's form, its integer form and the released code's."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from pocketvit.core.errors import DataError
from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture, quantize
from pocketvit.quantization.calibration import float_logits, output_gradients, samples
from pocketvit.quantization.methods import qhyvit, qhyvit_code
from pocketvit.quantization.operators import Norm
from pocketvit.quantization.quantizers import UniformQuantizer

METHODS = ("qhyvit", "qhyvit_integer", "qhyvit_code")


@pytest.fixture
def bridged(tiny: QuantizedNetwork) -> QuantizedNetwork:
    tiny.bridge_blocks = (("gate", "attention.qkv"),)
    return tiny


def spec(method: str, **settings: object) -> QuantizationSpec:
    return QuantizationSpec.model_validate({"method": method} | settings)


def input_scales(network: QuantizedNetwork, name: str) -> UniformQuantizer:
    quantizer = network.operator(name).input_quantizers[0]
    assert isinstance(quantizer, UniformQuantizer)
    return quantizer


def divergence(network: QuantizedNetwork, calibration: Calibration) -> float:
    with torch.no_grad():
        logits = network(calibration.images).log_softmax(1)
    wanted = float_logits(network, calibration).softmax(1)
    return float(nn.functional.kl_div(logits, wanted, reduction="batchmean"))


@pytest.mark.parametrize("scope", ["partial", "full"])
def test_every_operator_in_scope_is_quantized(
    bridged: QuantizedNetwork, calibration: Calibration, scope: str
) -> None:
    found = quantize(bridged, spec("qhyvit", scope=scope, weights=6, activations=6), calibration)
    for operator in found.operators.values():
        wanted = scope == "full" or operator.in_partial_scope
        assert all((q is not None) == wanted for q in operator.input_quantizers), operator.name
        if operator.weight is not None and not isinstance(operator, Norm):
            assert operator.weight_quantizer is not None
    with torch.no_grad():
        logits = found(calibration.images)
    assert torch.isfinite(logits).all()
    assert float(logits.std()) > 0


def test_the_search_improves_on_where_it_begins(bridged: QuantizedNetwork, calibration: Calibration) -> None:
    # Of the network, that is; every operator is searched with float inputs, so this need not be so, and of
    # `qhyvit_integer` on these images it is not.
    four = spec("qhyvit", weights=4, activations=4)
    with mock.patch.object(qhyvit, "_ROUNDS", 0):
        start = divergence(quantize(bridged, four, calibration), calibration)
    assert divergence(quantize(bridged, four, calibration), calibration) < start


def test_t1_gradients_are_those_of_the_quantized_network(
    bridged: QuantizedNetwork, calibration: Calibration
) -> None:
    largest: list[float] = []

    def listen(network: QuantizedNetwork, *rest: object) -> dict[str, Tensor]:
        assert all(o.quantized and o.has_quantizers for o in network.operators.values() if o.in_partial_scope)
        found = output_gradients(network, *rest)  # pyright: ignore
        largest.append(max(float(g.abs().max()) for g in found.values()))
        return found

    with mock.patch.object(qhyvit, "output_gradients", listen):
        quantize(bridged, spec("qhyvit"), calibration)
    target = float_logits(bridged, calibration)
    noise = output_gradients(bridged, calibration, list(bridged.operators.values()), target)
    assert largest[0] > 100 * max(float(g.abs().max()) for g in noise.values())


@pytest.mark.parametrize("method", METHODS)
def test_t1_without_gradient_no_layer_dies(
    bridged: QuantizedNetwork, calibration: Calibration, method: str
) -> None:
    def nothing(
        network: QuantizedNetwork, images: Calibration, operators: list, _: Tensor
    ) -> dict[str, Tensor]:
        return {o.name: torch.zeros_like(s.output) for o, s in samples(network, images, operators)}

    module = qhyvit_code if method == "qhyvit_code" else qhyvit
    with mock.patch.object(module, "output_gradients", nothing):
        found = quantize(bridged, spec(method), calibration)
    wanted = quantize(bridged, spec("minmax"), calibration)
    for name in (o.name for o in found.operators.values() if o.in_partial_scope):
        got, whole = input_scales(found, name), input_scales(wanted, name)
        assert float((got.high - got.low).max()) > 0.9 * float(whole.high - whole.low), name


def test_t1_an_exact_zero_is_an_error(calibration: Calibration) -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(256, 1))  # one class: KL is 0
    for method in METHODS:
        with pytest.raises(DataError, match="gradients"):
            quantize(model, spec(method), Calibration(calibration.images))


@pytest.mark.parametrize("method", ["qhyvit", "qhyvit_integer"])
def test_t4_a_range_above_zero_keeps_its_zero_point(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 64, 5))
    images = torch.rand(6, 3, 8, 8) * 2 + 10
    found = quantize(model, spec(method), Calibration(images))
    quantizer = input_scales(found, "0")
    assert bool(((quantizer.zero_point >= quantizer.qmin) & (quantizer.zero_point <= quantizer.qmax)).all())
    assert float((quantizer(images) - images).square().mean().sqrt()) < 0.1  # 9.01 with a clipped zero point


def test_t5_only_the_simulated_form_scales_channels(calibration: Calibration) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.Linear(3 * 196, 5))
    images = calibration.images * torch.tensor([0.01, 1.0, 100.0])[:, None, None]
    with torch.no_grad():  # every channel matters as much
        model[0].weight.mul_(torch.tensor([100.0, 1.0, 0.01])[:, None, None, None])
    found = {m: quantize(model, spec(m, activations=4), Calibration(images)) for m in METHODS}
    assert input_scales(found["qhyvit"], "0").axis == 1
    assert input_scales(found["qhyvit_code"], "0").axis == 1
    for operator in found["qhyvit_integer"].operators.values():
        assert all(q is None or (isinstance(q, UniformQuantizer) and q.axis is None) for q in operator.inputs)


def test_t6_channel_scales_of_the_code_have_the_width_of_activations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.Flatten(), nn.Linear(3 * 64, 5))
    images = torch.randn(6, 3, 8, 8)
    quantizer = input_scales(quantize(model, spec("qhyvit_code", activations=4), Calibration(images)), "0")
    assert (quantizer.qmin, quantizer.qmax) == (-8, 7)
    assert float(quantizer.scale.max()) < 1.2 * float(images.abs().max()) / 7.5
    assert float(quantizer.scale.max()) > 0.3 * float(images.abs().max()) / 7.5


def test_t7_the_grid_of_the_code_ends_before_beta() -> None:
    grid = qhyvit_code._GRID
    assert len(grid) == 100
    assert grid[0] == pytest.approx(0.01)
    assert grid[-1] == pytest.approx(0.01 + 99 * 1.19 / 100)
    assert qhyvit._GRID[-1] == pytest.approx(1.2)


def test_t8_in_the_code_operators_of_a_bridge_stay_quantized(
    bridged: QuantizedNetwork, calibration: Calibration
) -> None:
    states: list[list[str]] = []

    def listen(network: QuantizedNetwork, *rest: object) -> dict[str, Tensor]:
        states.append([o.name for o in network.operators.values() if o.quantized])
        return output_gradients(network, *rest)  # pyright: ignore

    with mock.patch.object(qhyvit_code, "output_gradients", listen):
        found = quantize(bridged, spec("qhyvit_code"), calibration)
    assert states == [[], ["gate"], ["gate", "attention.qkv"]]
    assert all(operator.quantized for operator in found.operators.values())


def test_the_code_is_symmetric(bridged: QuantizedNetwork, calibration: Calibration) -> None:
    found = quantize(bridged, spec("qhyvit_code"), calibration)
    for operator in found.operators.values():
        for quantizer in operator.input_quantizers:
            assert quantizer is None or (
                isinstance(quantizer, UniformQuantizer) and not quantizer.zero_point.any()
            )


def test_the_order_of_the_images_does_not_matter(bridged: QuantizedNetwork, calibration: Calibration) -> None:
    found = quantize(bridged, spec("qhyvit"), calibration)
    turned = Calibration(torch.cat((calibration.images[4:], calibration.images[:4])))
    again = quantize(copy.deepcopy(bridged), spec("qhyvit"), turned)
    with torch.no_grad():
        difference = found(calibration.images) - again(calibration.images)
    assert float(difference.abs().max()) < 0.05 * float(float_logits(bridged, calibration).abs().max())


def test_images_without_labels_in_another_order_keep_their_gradients() -> None:
    calibration = Calibration(torch.arange(3.0).reshape(3, 1, 1, 1), torch.tensor([0, 1, 2]))
    network = capture(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()), size=1, in_chans=1)
    (last,) = network.operators.values()
    gradients = {last.name: torch.tensor([[1.0], [3.0], [2.0]]), "x": torch.arange(6.0)[:, None]}
    sorted_ = qhyvit._hardest_first(calibration, gradients, last)
    assert sorted_.images.flatten().tolist() == [1, 2, 0]
    assert sorted_.labels is not None
    assert sorted_.labels.tolist() == [1, 2, 0]
    assert gradients["x"].flatten().tolist() == [2, 3, 4, 5, 0, 1]
