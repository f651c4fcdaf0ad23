"""Samples and gradients against hooks and autograd on the plain network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pocketvit.core.errors import DataError
from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization import calibration as module
from pocketvit.quantization.calibration import check_finite, float_logits, output_gradients, samples
from pocketvit.quantization.mixed import WeightBudget


def test_samples_are_what_the_float_network_does(tiny, tiny_model, calibration):
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    found = {operator.name: sample for operator, sample in samples(network, calibration)}
    assert list(found) == list(network.operators)
    with torch.no_grad():
        stem = tiny_model.stem(calibration.images)
        assert torch.allclose(found["stem"].output, stem, atol=1e-4)
        assert torch.allclose(found["depthwise"].inputs[0], tiny_model.act(stem), atol=1e-4)
        assert torch.allclose(found["head"].output, tiny_model(calibration.images), atol=1e-3)


def test_little_memory_gives_the_same_samples(tiny, calibration, monkeypatch):
    whole = {o.name: s.output for o, s in samples(tiny, calibration)}
    monkeypatch.setattr(module, "_MEMORY", 1)
    assert all(torch.equal(s.output, whole[o.name]) for o, s in samples(tiny, calibration))


def test_gradients_of_the_quantized_network(tiny, calibration):
    target = float_logits(tiny, calibration)
    network = quantize(tiny, QuantizationSpec(method="minmax", weights=4, activations=4), calibration)
    operators = list(network.operators.values())
    found = output_gradients(network, calibration, operators, target)
    # the last operator's gradient has a closed form: (softmax(z) − softmax(target)) / images in the batch
    with torch.no_grad():
        logits = network(calibration.images)
    wanted = (logits.softmax(-1) - target.softmax(-1)) / 4
    assert torch.allclose(found["head"], wanted, atol=1e-6)
    assert all(found[o.name].shape[0] == len(calibration.images) for o in operators)


class Tokens(nn.Module):
    """As Mobile-Former begins: an operator that reads what was learned, and no image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)
        self.tokens = nn.Parameter(torch.randn(1, 2, 8))

    def forward(self, x):
        pooled = torch.relu(self.stem(x)).mean((2, 3))
        return self.head(pooled.unsqueeze(1) + self.map(self.tokens.repeat(x.shape[0], 1, 1))).mean(1)


def test_gradients_of_what_reads_no_image():
    torch.manual_seed(0)
    network = capture(Tokens(), size=8)
    calibration = Calibration(torch.randn(4, 3, 8, 8))
    target = float_logits(network, calibration)
    network = quantize(network, QuantizationSpec(method="minmax", weights=4, activations=4), calibration)
    found = output_gradients(network, calibration, list(network.operators.values()), target)
    (added,) = (o.name for o in network.operators.values() if o.kind == "addition")
    assert found["map"].any()
    assert torch.allclose(found["map"], found[added], atol=1e-9), "a sum hands its gradient on"
    for method in ("qhyvit", "ptq4vit", "qhyvit_code"):
        quantized = quantize(network, QuantizationSpec(method=method), calibration)
        assert quantized(calibration.images).isfinite().all()


def test_t1_gradients_of_the_float_network_are_noise(tiny, calibration):
    target = float_logits(tiny, calibration)
    quantized = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    operators = list(quantized.operators.values())
    real = output_gradients(quantized, calibration, operators, target)
    noise = module._gradients(tiny, calibration.images, target, list(tiny.operators.values()))
    for operator in operators:
        assert noise[operator.name].abs().max() < 1e-3 * real[operator.name].abs().max()


def test_t1_a_network_without_gradients_is_refused(tiny, calibration, monkeypatch):
    operators = list(tiny.operators.values())
    monkeypatch.setattr(
        module, "_gradients", lambda *_: {operator.name: torch.zeros(4, 2) for operator in operators}
    )
    with pytest.raises(DataError, match="All gradients of the quantized network are 0"):
        output_gradients(tiny, calibration, operators, float_logits(tiny, calibration))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(0, 3, 8, 8), None, "no calibration images"),
        (torch.zeros(3, 8, 8), None, "no calibration images"),
        (torch.full((2, 3, 8, 8), torch.nan), None, "not finite"),
        (torch.full((2, 3, 8, 8), torch.inf), None, "not finite"),
        (torch.zeros(4, 3, 8, 8), torch.ones(4), "one class"),
    ],
)
def test_bad_images_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        Calibration(images, labels)


def test_numbers_that_are_not_finite_are_told_by_operator(tiny, calibration):
    """Weights that are no numbers, and numbers that become none inside: before any method looks at them."""
    check_finite(tiny, calibration)
    damaged = copy.deepcopy(tiny)
    damaged.operator("depthwise").weight.data[0] = torch.nan
    for method in ("pocket", "minmax", "qhyvit"):
        with pytest.raises(DataError, match="The weights of depthwise are not all finite"):
            quantize(damaged, QuantizationSpec(method=method), calibration)
    overflowing = copy.deepcopy(tiny)
    overflowing.operator("stem").weight.data *= 1e38
    with pytest.raises(DataError, match="stem computes numbers that are not finite"):
        quantize(overflowing, QuantizationSpec(), Calibration(calibration.images * 1e4))
    with pytest.raises(DataError, match="The weights of depthwise"):
        WeightBudget(average_bits=6).choose(damaged, calibration, QuantizationSpec())
