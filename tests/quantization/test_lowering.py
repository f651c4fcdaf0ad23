from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from pocketvit.core.errors import ExportError
from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.integer_modules import IntegerConvolution, IntegerProduct
from pocketvit.quantization.integer_norm import IntegerNorm
from pocketvit.quantization.integer_numbers import Grid
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


class Pointwise(nn.Module):
    """Maps that one reader, two readers and a padded reader round alike."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.alone = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, bias=False)
        self.one, self.two = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.padded, self.beside = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.alone(nn.functional.silu(self.stem(x)))
        x = nn.functional.silu(x)
        x = nn.functional.silu(self.one(x) * self.two(x))
        return self.head((self.padded(x) + self.beside(x)).mean((2, 3)))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_openvino_has_zero_points_in_biases_where_nothing_else_needs_them(runtime) -> None:
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    spec = QuantizationSpec(method="minmax", runtime=runtime)
    network = quantize(capture(Pointwise().eval(), size=8), spec, Calibration(images))
    lowered = lower(network)
    moved = set()
    for index, (name, operator) in enumerate(network.operators.items()):
        made = lowered.get_submodule(f"operators.{index}")
        for part in made.modules():
            if isinstance(part, IntegerProduct):
                (grid,) = (found for found in part.read.modules() if isinstance(found, Grid))
                assert float(grid.zero_point) > 0
                stored = operator.quantized_weight().double().flatten(1).sum(dim=1)
                own = 0 if operator.bias is None else operator.bias.double()
                added = -float(grid.scale) * float(grid.zero_point) * stored
                bias = part.bias.integers * part.bias.scale.double() if part.bias is not None else own
                if grid.from_zero:
                    moved.add(name)
                    torch.testing.assert_close(bias, own + added, rtol=1e-5, atol=1e-6)
    assert moved == ({"stem", "alone", "one", "two", "head"} if runtime == "openvino" else set())


def test_a_zero_point_that_32_bits_do_not_hold_stays() -> None:
    conv = capture(nn.Sequential(nn.Conv2d(3, 2, 1)).eval(), size=8).operator("0")
    scale = torch.tensor(0.1)
    conv.set_input(
        0, UniformQuantizer(scale=scale, zero_point=torch.tensor(9.0), qmin=0, qmax=255, axis=None)
    )
    conv.weight_quantizer = UniformQuantizer(scale=scale.expand(2), qmin=-127, qmax=127, axis=0)
    made = IntegerConvolution(conv)
    made.bias.integers = torch.tensor([2**31 - 1, 0], dtype=torch.int32)
    made.weight.integers = torch.full_like(made.weight.integers, -1)
    made.take_zero_point()
    assert made.bias.integers.tolist() == [2**31 - 1, 0]
    assert not made.read[0].from_zero
    made.bias.integers = torch.tensor([100, 0], dtype=torch.int32)
    made.take_zero_point()
    assert made.bias.integers.tolist() == [100 + 9 * 3, 9 * 3]
    assert made.read[0].from_zero
