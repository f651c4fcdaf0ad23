from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.quantization import METHODS, Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.gated import GatedActivation
from pocketvit.quantization.kernels import fit_to_runtime, writes_integers
from pocketvit.quantization.operators import Convolution, MatMul, Reduction
from pocketvit.quantization.quantizers import UniformQuantizer

IMAGE = torch.zeros(1, 3, 16, 16)


class Residual(nn.Module):
    """A residual branch, a convolution that two read, a mean over all pixels."""

    def __init__(self, function=nn.functional.silu) -> None:
        super().__init__()
        self.function = function
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide = nn.Conv2d(8, 16, 1)
        self.narrow = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(self.function(self.wide(x)))
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


def test_onnx_runtime_reads_the_image_in_float(tiny) -> None:
    fit_to_runtime(tiny, list(tiny.operators.values()), "onnxruntime", IMAGE)
    (stem,) = (o for o in tiny.operators.values() if isinstance(o, Convolution) and o.float_reason)
    assert stem.name == "stem"
    assert "reads the image" in stem.float_reason


def test_openvino_multiplies_activations_in_float(tiny) -> None:
    chosen = fit_to_runtime(tiny, list(tiny.operators.values()), "openvino", IMAGE)
    left = [operator for operator in tiny.operators.values() if operator not in chosen]
    assert not [operator.name for operator in left if isinstance(operator, Convolution)]
    assert kinds(left).count(MatMul) == 2
    assert kinds(left).count(Reduction) == 1
    assert all(operator.float_reason for operator in left)
    assert not any(operator.float_reason for operator in chosen)


@pytest.mark.parametrize("function", [nn.functional.silu, nn.functional.gelu])
def test_onnx_runtime_gates_what_is_behind_a_convolution(function) -> None:
    residual = capture(Residual(function), size=8)
    network = quantized(residual, "onnxruntime")
    assert kinds(network.operators.values()).count(GatedActivation) == 1
    assert not any(isinstance(operator, GatedActivation) for operator in residual.operators.values()), (
        "a copy"
    )
    assert network.runtime == "onnxruntime"


def test_openvino_computes_functions_in_the_convolution_before(residual) -> None:
    network = quantized(residual, "openvino")
    assert not any(isinstance(operator, GatedActivation) for operator in network.operators.values())


def test_pooling_to_one_pixel_is_the_mean_over_all_pixels() -> None:
    def mean(size: int) -> Reduction:
        pooled = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(size), nn.Conv2d(4, 2, 1))
        (found,) = (o for o in capture(pooled, size=8).operators.values() if isinstance(o, Reduction))
        return found

    assert mean(1).is_global_mean
    assert mean(1).keeps_dimensions
    assert writes_integers(mean(1), "onnxruntime")
    assert not mean(2).is_global_mean


def test_onnx_runtime_means_over_pixels_in_integers_and_over_tokens_in_float(residual, tiny) -> None:
    (mean,) = (o for o in residual.operators.values() if isinstance(o, Reduction))
    assert mean.is_global_mean
    assert writes_integers(mean, "onnxruntime")
    assert not mean.keeps_dimensions
    (tokens,) = (o for o in tiny.operators.values() if isinstance(o, Reduction))
    assert not tokens.is_global_mean
    fit_to_runtime(tiny, list(tiny.operators.values()), "onnxruntime", IMAGE)
    assert "no integer kernel" in tokens.float_reason
    assert {o.kind for o in tiny.operators.values() if o.float_reason} == {
        "convolution",
        "reduction",
        "matmul",
    }


def test_what_a_convolution_wrote_in_8_bits_is_not_rounded_to_other_8_bits(residual) -> None:
    network = quantized(residual, "onnxruntime")
    stem = network.operator("stem")
    readers = network.readers_of(("wide", 0))
    assert len(readers) == 2
    grids = [network.operator(name).input_quantizers[index] for name, index in readers]
    written = stem.output or grids[0]
    assert all(grid.same_grid(written) for grid in grids)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.integer])
def test_nor_by_the_function_behind_it_in_full_scope(residual, method) -> None:
    generator = torch.Generator().manual_seed(1)
    calibration = Calibration(torch.randn(4, 3, 8, 8, generator=generator), torch.arange(4) % 4)
    network = quantize(
        residual, QuantizationSpec(method=method, scope="full", runtime="onnxruntime"), calibration
    )
    wide, gate = network.operator("wide"), network.operator("/activation")
    grid = gate.input_quantizers[0]
    assert wide.output is None or grid is wide.output
    assert isinstance(grid, UniformQuantizer)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("groups", "outputs", "left"), [(8, 8, False), (8, 24, True), (4, 24, False)])
def test_depthwise_convolutions_with_several_outputs_a_channel_stay_in_float(
    groups, outputs, left, runtime
) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, outputs, 3, padding=1, groups=groups))
    network = capture(layers, size=8)
    fit_to_runtime(network, list(network.operators.values()), runtime, torch.zeros(1, 3, 8, 8))
    assert bool(network.operator("1").float_reason) == left


class Tokens(nn.Module):
    """A query of one number a pixel, maps of few and of many rows, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.wide, self.key = nn.Linear(3, 1), nn.Linear(3, 8), nn.Linear(8, 8)
        self.squeeze, self.head = nn.Conv2d(8, 4, 1), nn.Linear(4, 2)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        mean = (self.query(tokens).softmax(dim=1) * self.wide(tokens)).sum(dim=1)
        return self.head(self.squeeze(torch.relu(self.key(mean))[..., None, None]).flatten(1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_where_little_is_multiplied_only_weights_are_integers(runtime) -> None:
    network = quantized(capture(Tokens(), size=8), runtime)
    key = network.operator("key")
    assert key.weights_only
    assert key.weight_quantizer is not None
    assert key.input_quantizers == [None]
    assert "weights in 8 bits" in key.float_reason
    assert not network.operator("query").has_quantizers
    assert "a few times only" in network.operator("query").float_reason
    for name in ("wide", "squeeze", "head"):  # many rows; a convolution; what returns the scores
        assert None not in network.operator(name).input_quantizers
        assert not network.operator(name).float_reason


def test_the_papers_setting_rounds_small_products_too() -> None:
    network = quantized(capture(Tokens(), size=8), None)
    for name in ("query", "wide", "key", "squeeze", "head"):
        assert None not in network.operator(name).input_quantizers


class Asking(nn.Module):
    """Attention by a query that is learned, not computed."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 3))
        self.query, self.key, self.head = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(3, 4)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        query = self.query(self.token.expand(x.shape[0], -1, -1))
        weights = (query @ self.key(tokens).transpose(1, 2)).softmax(dim=-1)
        return self.head((weights @ tokens).flatten(1))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_no_image_changes_stays_in_float(runtime) -> None:
    network = quantized(capture(Asking(), size=8), runtime)
    assert not network.operator("query").has_quantizers
    assert "the same numbers for every image" in network.operator("query").float_reason
    assert network.operator("key").has_quantizers
