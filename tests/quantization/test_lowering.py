from __future__ import annotations

import pytest
import torch
from torch import fx

from pocketvit.core.errors import ExportError
from pocketvit.quantization import QuantizationSpec, quantize
from pocketvit.quantization.integer_norm import IntegerNorm
from pocketvit.quantization.logarithmic import LogarithmicQuantizer
from pocketvit.quantization.lowering import check_integer, lower
from pocketvit.quantization.operators import Linear, Norm
from pocketvit.quantization.quantizers import UniformQuantizer


@pytest.fixture
def quantized(tiny, calibration):
    return quantize(tiny, QuantizationSpec(method="minmax", runtime="onnxruntime"), calibration)


def grid(*, axis: int | None = None, zero: float = 0.0) -> UniformQuantizer:
    scale = torch.tensor(0.1) if axis is None else torch.full((8,), 0.1)
    return UniformQuantizer(scale=scale, zero_point=torch.tensor(zero), qmin=0, qmax=255, axis=axis)


def test_operators_keep_their_places(quantized) -> None:
    lowered = lower(quantized)
    assert isinstance(lowered, fx.GraphModule)
    kept = dict(lowered.get_submodule("operators").named_children())
    assert len(kept) == len(quantized.operators)
    for index, operator in enumerate(quantized.operators.values()):
        assert (kept[str(index)].__class__ is operator.__class__) == (not operator.has_quantizers)


def test_t5_channel_wise_activations_are_refused_by_name(quantized) -> None:
    quantized.operator("depthwise").set_input(0, grid(axis=1))
    with pytest.raises(ExportError, match="each channel of input 0 of depthwise"):
        check_integer(quantized)


def test_t4_zero_points_outside_the_integers_are_refused(quantized) -> None:
    quantized.operator("head").set_input(0, grid(zero=-3))
    with pytest.raises(ExportError, match="zero point of input 0 of head is -3"):
        check_integer(quantized)


def test_asymmetric_weights_are_refused(quantized) -> None:
    quantized.operator("head").weight_quantizer = grid(zero=7)
    with pytest.raises(ExportError, match="weights of head have zero points"):
        check_integer(quantized)


def test_scales_of_weights_along_their_inputs_are_refused(quantized) -> None:
    scale = torch.full((8,), 0.1)
    quantized.operator("head").weight_quantizer = UniformQuantizer(scale=scale, qmin=-127, qmax=127, axis=1)
    with pytest.raises(ExportError, match="weights of head run along dimension 1"):
        check_integer(quantized)


def test_uneven_steps_are_refused_by_name(quantized) -> None:
    quantized.operator("head").set_input(0, LogarithmicQuantizer(scale=1.0, bits=8, steps=1))
    with pytest.raises(ExportError, match="input 0 of head is not evenly spaced"):
        check_integer(quantized)


def test_arithmetic_of_its_own_is_refused(quantized) -> None:
    (norm,) = (found for found in quantized.operators.values() if isinstance(found, Norm))
    norm.set_input(0, grid())
    quantized.replace(norm, IntegerNorm(norm, output_scale=torch.tensor(0.1)))
    with pytest.raises(ExportError, match=r"attention\.norm.* is computed by IntegerNorm"):
        check_integer(quantized)


def test_what_is_switched_off_is_not_looked_at(quantized) -> None:
    head = quantized.operator("head")
    assert isinstance(head, Linear)
    head.set_input(0, grid(zero=-3))
    head.quantized = False
    check_integer(quantized)
    index = list(quantized.operators.values()).index(head)
    assert isinstance(lower(quantized).get_submodule(f"operators.{index}"), Linear)


def test_small_products_store_integers_and_compute_in_float(tiny, calibration) -> None:
    network = quantize(tiny, QuantizationSpec(method="minmax", runtime="openvino"), calibration)
    head = network.operator("head")
    head.weights_only = True
    head.set_input(0, None)
    index = list(network.operators.values()).index(head)
    stored = lower(network).get_submodule(f"operators.{index}")
    integers = stored.get_submodule("weight").integers
    assert integers.dtype == torch.int8
    torch.testing.assert_close(
        integers * head.weight_quantizer.scale[:, None], head.quantized_weight(), rtol=0, atol=1e-6
    )
