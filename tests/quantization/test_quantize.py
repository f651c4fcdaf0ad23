"""The one call: what is quantized, what is refused."""

from __future__ import annotations

import pytest
import torch

from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.quantization import METHODS, OperatorBits, QuantizationSpec, quantize


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scope", ["partial", "full"])
def test_every_method_quantizes_every_operator_of_its_scope(tiny, calibration, method, scope):
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    network = quantize(tiny, QuantizationSpec(method=method, scope=scope), calibration)
    for operator in network.operators.values():
        if operator.in_partial_scope:
            assert operator.has_quantizers, operator.name
            if operator.kind in {"convolution", "linear"}:
                assert operator.weight_quantizer is not None
    with torch.no_grad():
        found, wanted = network(calibration.images), tiny(calibration.images)
    assert torch.isfinite(found).all()
    signal = (wanted - wanted.mean(0)).square().mean()
    assert (found - wanted).square().mean() < 0.3 * signal
    # the network given is not changed
    assert list(tiny.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())
    assert not any(operator.has_quantizers for operator in tiny.operators.values())


def test_what_is_kept_in_float_has_no_quantizers(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(keep_float=("attention", "stem")), calibration)
    for operator in network.operators.values():
        if operator.module.startswith("attention") or operator.name == "stem":
            assert not operator.has_quantizers
    assert network.operator("head").has_quantizers


def test_single_operators_have_their_own_widths(tiny, calibration):
    spec = QuantizationSpec(method="minmax", bits={"head": OperatorBits(weights=4, activations=6)})
    network = quantize(tiny, spec, calibration)
    head, stem = network.operator("head"), network.operator("stem")
    assert (head.weight_quantizer.bits, head.input_quantizers[0].bits) == (4, 6)
    assert (stem.weight_quantizer.bits, stem.input_quantizers[0].bits) == (8, 8)


def test_a_model_is_captured_first(tiny_model, calibration):
    network = quantize(tiny_model, QuantizationSpec(method="minmax"), calibration)
    assert network.size == 16


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ({"method": "qhyvitt"}, UnknownNameError, "qhyvit"),
        ({"keep_float": ("nothing*",)}, ConfigError, "No operator is called"),
        ({"bits": {"hed": OperatorBits(weights=4, activations=4)}}, UnknownNameError, "head"),
    ],
)
def test_names_that_do_not_exist_are_refused(tiny, calibration, spec, error, message):
    with pytest.raises(error, match=message):
        quantize(tiny, QuantizationSpec(**spec), calibration)


def test_unsupported_widths_are_refused():
    with pytest.raises(ConfigError, match="16 bits are not supported"):
        QuantizationSpec(weights=16)
