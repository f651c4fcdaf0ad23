"""Q-HyViT in the paper's form, its integer form and the released code's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, quantize
from pocketvit.quantization.calibration import float_logits
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
@pytest.mark.parametrize("method", METHODS)
def test_every_operator_in_scope_is_quantized(
    bridged: QuantizedNetwork, calibration: Calibration, method: str, scope: str
) -> None:
    found = quantize(bridged, spec(method, scope=scope, weights=6, activations=6), calibration)
    for operator in found.operators.values():
        wanted = scope == "full" or operator.in_partial_scope
        assert all((q is not None) == wanted for q in operator.input_quantizers), operator.name
        if operator.weight is not None and not isinstance(operator, Norm):
            assert operator.weight_quantizer is not None
    with torch.no_grad():
        logits = found(calibration.images)
    assert torch.isfinite(logits).all()
    assert float(logits.std()) > 0
