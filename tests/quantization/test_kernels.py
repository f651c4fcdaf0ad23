from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.gated import GatedSiLU
from pocketvit.quantization.kernels import fit_to_runtime, writes_integers
from pocketvit.quantization.operators import Convolution, MatMul, Reduction

IMAGE = torch.zeros(1, 3, 16, 16)


class Residual(nn.Module):
    """A residual branch, a convolution that two read, a mean over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 1)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(nn.functional.silu(self.wide(x)))
        return self.head(x.mean((-2, -1)))


@pytest.fixture
def residual():
    torch.manual_seed(0)
    return capture(Residual(), size=8)


def quantized(network, runtime):
    calibration = Calibration(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return quantize(network, QuantizationSpec(method="minmax", runtime=runtime), calibration)


def kinds(operators):
    return [type(operator) for operator in operators]


def test_without_a_runtime_nothing_is_changed(tiny) -> None:
    operators = list(tiny.operators.values())
    assert fit_to_runtime(tiny, operators, None, IMAGE) == operators
    assert not any(writes_integers(operator, None) for operator in operators)
    assert not any(operator.float_reason for operator in operators)


def test_openvino_reads_the_image_in_float_and_multiplies_activations_in_float(tiny) -> None:
    chosen = fit_to_runtime(tiny, list(tiny.operators.values()), "openvino", IMAGE)
    left = [operator for operator in tiny.operators.values() if operator not in chosen]
    assert [operator.name for operator in left if isinstance(operator, Convolution)] == ["stem"]
    assert kinds(left).count(MatMul) == 2
    assert kinds(left).count(Reduction) == 1
    assert all(operator.float_reason for operator in left)
    assert not any(operator.float_reason for operator in chosen)


def test_onnx_runtime_gates_the_silu_behind_a_convolution(residual) -> None:
    network = quantized(residual, "onnxruntime")
    assert kinds(network.operators.values()).count(GatedSiLU) == 1
    assert not any(isinstance(operator, GatedSiLU) for operator in residual.operators.values()), "a copy"
    assert network.runtime == "onnxruntime"


def test_onnx_runtime_means_over_pixels_in_integers_and_over_tokens_in_float(residual, tiny) -> None:
    (mean,) = (o for o in residual.operators.values() if isinstance(o, Reduction))
    assert mean.is_global_mean
    assert writes_integers(mean, "onnxruntime")
    assert not mean.keeps_dimensions
    (tokens,) = (o for o in tiny.operators.values() if isinstance(o, Reduction))
    assert not tokens.is_global_mean
    fit_to_runtime(tiny, list(tiny.operators.values()), "onnxruntime", IMAGE)
    assert "no integer kernel" in tokens.float_reason
    assert {o.kind for o in tiny.operators.values() if o.float_reason} == {"reduction", "matmul"}


def test_openvino_adds_the_branch_unrounded(residual) -> None:
    rounded = quantized(residual, None).operators
    (sum_name,) = (name for name in rounded if "addition" in name)
    assert None not in rounded[sum_name].input_quantizers
    network = quantized(residual, "openvino")
    by_producer = {
        network.producer((sum_name, i)).name: network.operator(sum_name).input_quantizers[i] for i in (0, 1)
    }
    assert by_producer["narrow"] is None
    assert by_producer["stem"] is not None


def test_what_a_convolution_wrote_in_8_bits_is_not_rounded_to_other_8_bits(residual) -> None:
    network = quantized(residual, "onnxruntime")
    stem = network.operator("stem")
    readers = network.readers_of(("wide", 0))
    assert len(readers) == 2
    grids = [network.operator(name).input_quantizers[index] for name, index in readers]
    written = stem.output or grids[0]
    assert all(grid.same_grid(written) for grid in grids)


@pytest.mark.parametrize(("groups", "outputs", "left"), [(8, 8, False), (8, 24, True), (4, 24, False)])
def test_openvino_gets_no_depthwise_convolution_with_several_outputs_a_channel(groups, outputs, left) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, outputs, 3, padding=1, groups=groups))
    network = capture(layers, size=8)
    fit_to_runtime(network, list(network.operators.values()), "openvino", torch.zeros(1, 3, 8, 8))
    assert bool(network.operator("1").float_reason) == left
