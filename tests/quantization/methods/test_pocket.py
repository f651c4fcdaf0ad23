"""`pocket`: every quantizer runs in integers, tensors are rounded once, and it beats min-max."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.ranges import least_error, with_fitted_step


def logits_error(network, images, wanted):
    with torch.no_grad():
        return float((network(images) - wanted).square().mean())


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_is_nearer_to_the_float_network_than_minmax(tiny, bits):
    calibration = Calibration(torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(2)))
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted = tiny(images)
    spec = QuantizationSpec(weights=bits, activations=bits)
    ours = quantize(tiny, spec, calibration)
    plain = quantize(tiny, spec.model_copy(update={"method": "minmax"}), calibration)
    assert logits_error(ours, images, wanted) < logits_error(plain, images, wanted)


def test_every_quantizer_is_one_that_integer_kernels_execute(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(), calibration)
    for operator in network.operators.values():
        for quantizer in operator.input_quantizers:
            if quantizer is not None:
                assert isinstance(quantizer, UniformQuantizer)
                assert quantizer.axis is None
                assert quantizer.qmin <= quantizer.zero_point <= quantizer.qmax
        if operator.weight_quantizer is not None:
            assert operator.weight_quantizer.axis == 0
            assert not operator.weight_quantizer.zero_point.any()


def test_all_that_read_a_tensor_share_its_quantizer(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(), calibration)
    depthwise, gate = network.operator("depthwise"), network.operator("gate")
    assert depthwise.input_quantizers[0] is gate.input_quantizers[0]


def test_partial_scope_leaves_norms_softmax_and_activations_in_float(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(), calibration)
    float_kinds = {o.kind for o in network.operators.values() if not o.has_quantizers}
    assert float_kinds == {"norm", "softmax", "activation"}
    whole = quantize(tiny, QuantizationSpec(scope="full"), calibration)
    assert all(o.has_quantizers for o in whole.operators.values())


@pytest.mark.parametrize("runtime", [None, "openvino"])
def test_steps_are_fitted_where_another_arithmetic_has_to_round_alike(tiny, calibration, runtime):
    network = quantize(tiny, QuantizationSpec(runtime=runtime), calibration)
    x = calibration.images
    wanted = least_error(x, bits=8, images=len(x))
    fitted = with_fitted_step(wanted, x)
    assert float(fitted.scale) != float(wanted.scale)
    (found,) = (o.input_quantizers[0] for o in network.operators.values() if network.reads_image(o))
    assert found.same_grid(fitted if runtime else wanted)


class Flattened(nn.Module):
    """Hard-swish of numbers most of which it makes zero, and that another reads too if `twice`."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__()
        self.conv, self.head, self.twice = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), twice
        nn.init.constant_(self.conv.bias[:3], -60)

    def forward(self, x):
        y = self.conv(x)
        z = nn.functional.hardswish(y)
        return self.head(z + y if self.twice else z).mean(dim=(2, 3))


@pytest.mark.parametrize("twice", [False, True])
def test_full_scope_spends_no_steps_on_what_the_function_behind_makes_zero(calibration, twice):
    torch.manual_seed(0)
    network = capture(Flattened(twice=twice).eval(), size=16)
    whole = quantize(network, QuantizationSpec(weights=6, activations=6, scope="full"), calibration)
    (activation,) = (o for o in whole.operators.values() if o.kind == "activation")
    low = float(activation.input_quantizers[0].low)
    assert low < -40 if twice else -15 < low <= -0.3


def test_the_same_images_give_the_same_network(tiny, calibration):
    first, second = (quantize(tiny, QuantizationSpec(), calibration) for _ in range(2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(("function", "twice"), [(nn.ReLU, False), (nn.GELU, True)])
def test_onnx_runtime_rounds_once_behind_relu(calibration, function, twice):
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), function(), nn.Conv2d(4, 2, 1))
    network = quantize(capture(layers.eval(), size=16), QuantizationSpec(runtime="onnxruntime"), calibration)
    assert (network.operator("1").output is not None) == twice
    assert network.operator("3").input_quantizers[0] is not None
