from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import nn

from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.calibration import samples
from pocketvit.quantization.diagnosis import diagnose, signal_to_noise
from pocketvit.quantization.operators import Norm
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.reparameterize import divide_input, shift_norm_outputs
from pocketvit.quantization.sensitivity import logit_error
from pocketvit.quantization.twin import TwinUniformQuantizer


def diagnosed(tiny, calibration, **settings):
    network = quantize(tiny, QuantizationSpec(**settings), calibration)
    return network, diagnose(network, calibration, reference=tiny)


def report_of(diagnosis, name):
    (found,) = (r for r in diagnosis.operators if r.name == name)
    return found


def test_sensitivity_is_the_error_of_a_network_with_one_operator_quantized(tiny, calibration) -> None:
    network, diagnosis = diagnosed(tiny, calibration, method="minmax", weights=4, activations=4)
    with torch.no_grad():
        wanted = tiny(calibration.images)
        for report in diagnosis.operators:
            operator = tiny.operator(report.name)
            tiny.replace(operator, network.operator(report.name))
            expected = logit_error(tiny(calibration.images), wanted)
            tiny.replace(network.operator(report.name), operator)
            assert report.error == pytest.approx(expected.error, rel=1e-2, abs=1e-12)
            assert report.changed == expected.changed
        whole = logit_error(network(calibration.images), wanted)
    assert (diagnosis.error, diagnosis.changed) == (pytest.approx(whole.error, rel=1e-2), whole.changed)
    assert sum(report.share for report in diagnosis.operators) == pytest.approx(1)
    assert [report.name for report in diagnosis.operators] == list(network.operators)


def test_ranges_clipping_and_noise_by_hand(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    quantizer = UniformQuantizer(
        scale=torch.tensor(0.5), zero_point=torch.tensor(1.0), qmin=0, qmax=3, axis=None
    )
    network.operator("stem").set_input(0, quantizer)
    report = report_of(diagnose(network, calibration, reference=tiny), "stem")
    x = calibration.images.double()
    operand = report.operands[0]
    assert (operand.what, operand.bits, operand.scheme, operand.granularity) == (
        "input 0", 2, "asymmetric", "tensor",
    )  # fmt: skip
    assert operand.seen == (pytest.approx(float(x.min())), pytest.approx(float(x.max())))
    assert operand.covered == (-0.5, 1.0)
    assert operand.clipped == pytest.approx(float(((x < -0.75) | (x > 1.25)).double().mean()), abs=1e-4)
    assert operand.before_db is None, "nothing before the first operator makes noise"
    rounded = ((x / 0.5).round() + 1).clamp(0, 3).sub(1) * 0.5
    ratio = float(x.square().sum() / (x - rounded).square().sum())
    assert operand.after_db == pytest.approx(10 * math.log10(ratio), abs=1e-3)
    weights = report.operands[1]
    assert (weights.what, weights.granularity, weights.clipped) == ("weights", "channel", 0)


def test_t4_zero_points_outside_the_integers_are_counted(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    zero = torch.tensor([-3.0, 0, 128, 255, 256, 1, 2, 3])
    depthwise = network.operator("depthwise")
    depthwise.set_input(
        0, UniformQuantizer(scale=torch.full((8,), 0.01), zero_point=zero, qmin=0, qmax=255, axis=1)
    )
    operand = report_of(diagnose(network, calibration, reference=tiny), "depthwise").operands[0]
    assert operand.overflowing == 2 / 8
    assert operand.granularity == "channel"
    assert operand.clipped > 0.05


def test_noise_grows_along_the_network_and_shrinks_with_bits(tiny, calibration) -> None:
    _, eight = diagnosed(tiny, calibration, method="minmax")
    _, four = diagnosed(tiny, calibration, method="minmax", weights=4, activations=4)
    for a, b in zip(eight.operators, four.operators, strict=True):
        assert a.output_db is not None
        assert b.output_db is not None
        assert a.output_db > b.output_db, a.name
    assert eight.error < four.error


def test_a_ruined_operator_is_found_and_what_helps_is_suggested(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    gate = network.operator("gate")
    scale = gate.input_quantizers[0].scale / 12  # covers a twelfth of what it reads
    gate.set_input(0, UniformQuantizer(scale=scale, qmin=0, qmax=255, axis=None))
    diagnosis = diagnose(network, calibration, reference=tiny)
    worst = max(diagnosis.operators, key=lambda report: report.error)
    assert worst.name == "gate"
    assert worst.share > 0.9
    actions = {remedy.action: remedy.gain for remedy in worst.remedies}
    assert actions["whole range"] > 0.9
    assert actions["keep in float"] > 0.9
    assert worst.suggestion is not None
    assert worst.suggestion.action == "whole range", "integers, where they do as well as float"
    assert diagnosis.keep_float == ()
    assert diagnosis.error_kept is None


def test_expected_gain_of_float_is_the_measured_one(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    with torch.no_grad():
        head = network.operator("head")
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
    diagnosis = diagnose(network, calibration, reference=tiny)
    assert diagnosis.keep_float == ("head",), "its weights are lost; no other rounding brings them back"
    network.replace(head, tiny.operator("head"))
    with torch.no_grad():
        kept = logit_error(network(calibration.images), tiny(calibration.images)).error
    assert diagnosis.error_kept == pytest.approx(kept, rel=1e-2)
    gain = report_of(diagnosis, "head").suggestion.gain
    assert gain == pytest.approx(1 - kept / diagnosis.error, rel=1e-2)


def test_moved_norm_scales_are_no_noise(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    (norm,) = (o for o in network.operators.values() if isinstance(o, Norm))
    ratio, shift = torch.linspace(0.2, 30, 8), torch.linspace(-4, 4, 8)
    shift_norm_outputs(network, norm, ratio, shift)
    qkv = network.operator("attention.qkv")
    qkv.inputs[0] = qkv.weight_quantizer = None
    for weights_changed in (False, True):  # the network's own float state is exact, or is not
        if weights_changed:
            with torch.no_grad():
                network.operator("head").weight.mul_(1.01)
        diagnosis = diagnose(network, calibration, reference=tiny)
        assert report_of(diagnosis, norm.name).output_db > 20
        assert report_of(diagnosis, "attention.qkv").output_db > 20


def test_scales_moved_between_convolutions_are_no_noise(calibration) -> None:
    """As by HyQ: weights of two convolutions differ from the reference's, and nothing is lost."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)
    reference = capture(nn.Sequential(first, second, nn.Flatten(), nn.Linear(8 * 196, 4)).eval(), size=16)
    network = copy.deepcopy(reference)
    assert divide_input(network, network.operator("1"), torch.linspace(0.6, 1.6, 8))
    network = quantize(network, QuantizationSpec(method="minmax"), calibration)
    diagnosis = diagnose(network, calibration, reference=reference)
    for report in diagnosis.operators:
        assert report.output_db > 20, report
        assert report.error < 2 * diagnosis.error


def test_operators_in_float_have_noise_but_no_sensitivity(tiny, calibration) -> None:
    _, diagnosis = diagnosed(tiny, calibration, method="minmax", keep_float=("gate",))
    report = report_of(diagnosis, "gate")
    assert (report.operands, report.error, report.changed, report.remedies) == ((), 0, 0, ())
    assert report.output_db is not None


def test_nothing_quantized_is_no_error(tiny, calibration) -> None:
    diagnosis = diagnose(tiny, calibration, reference=tiny)
    assert (diagnosis.error, diagnosis.changed, diagnosis.keep_float) == (0, 0, ())
    assert all(report.share == 0 and report.output_db is None for report in diagnosis.operators)


def test_quantizers_that_are_not_uniform(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    softmax = next(name for name, o in network.operators.items() if o.kind == "softmax")
    product = next(
        o
        for o in network.operators.values()
        if o.kind == "matmul" and network.producer((o.name, 0)).name == softmax
    )
    product.set_input(0, TwinUniformQuantizer.for_softmax(split=0.25, bits=6))
    operand = report_of(diagnose(network, calibration, reference=tiny), product.name).operands[0]
    assert (operand.scheme, operand.granularity, operand.bits) == ("twinuniform", "tensor", 6)
    assert operand.covered == (0, 1)
    assert operand.clipped == 0


def test_what_is_written_is_json(tiny, calibration) -> None:
    network, diagnosis = diagnosed(tiny, calibration)
    text = json.dumps(diagnosis.to_dict(), allow_nan=False)
    assert json.loads(text)["operators"][0]["operands"][0]["what"] == "input 0"
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    diagnose(network, calibration, reference=tiny)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_sixteen_images_from_all_over_are_looked_at(tiny) -> None:
    images = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    network = quantize(tiny, QuantizationSpec(method="minmax"), Calibration(images))
    diagnosis = diagnose(network, Calibration(images), reference=tiny)
    assert diagnosis.images == 16
    seen = [images[round(i * 39 / 15)] for i in range(16)]
    with torch.no_grad():
        expected = logit_error(network(torch.stack(seen)), tiny(torch.stack(seen)))
    assert diagnosis.error == pytest.approx(expected.error, rel=1e-2)  # a rounding may tip over


def test_signal_to_noise_by_hand() -> None:
    assert signal_to_noise(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(20)
    assert signal_to_noise(torch.ones(2), torch.ones(2)) is None
    assert signal_to_noise(torch.zeros(2), torch.ones(2)) is None


def test_samples_are_not_held_for_all_operators_at_once() -> None:
    """A deep network is diagnosed with what a few layers hold."""
    model = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(12)], nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    network = capture(model, size=8)
    calibration = Calibration(torch.randn(4, 3, 8, 8))
    quantized = quantize(network, QuantizationSpec(method="minmax"), calibration)
    diagnosis = diagnose(quantized, calibration, reference=network, worst=2)
    assert len(diagnosis.operators) == len(list(samples(network, calibration))) == 13
    assert sum(bool(report.remedies) for report in diagnosis.operators) == 2
