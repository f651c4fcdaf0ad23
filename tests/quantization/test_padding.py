"""Channels of zeros: where they are added, and that no result changes by it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import pocketvit
from pocketvit.deployment.onnx import trace
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.deployment.session import open_session
from pocketvit.quantization import (
    Calibration,
    QuantizationSpec,
    QuantizedNetwork,
    capture,
    lowering,
    quantize,
)
from pocketvit.quantization.integer_modules import IntegerOperator
from pocketvit.quantization.operators import Convolution, Linear
from pocketvit.quantization.padding import BLOCK


class Expanded(nn.Module):
    """Inverted residual with a squeeze-and-excitation gate, widths of no whole block."""

    def __init__(self, width: int, *, kernel: int = 3) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, width, 1, bias=False)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.squeeze, self.excite = nn.Conv2d(width, 6, 1), nn.Conv2d(6, width, 1)
        self.project, self.head = nn.Conv2d(width, 12, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = functional.silu(self.depthwise(functional.hardswish(self.expand(x))))
        y = y * self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head((x + self.project(y)).mean((2, 3)))


class Stream(nn.Module):
    """A residual stream made by the convolution of the image, kept by depthwise ones, read by a linear map.

    Args:
        end: what reads it in the end: `mean`, or `tokens`, which have no room for more channels.
    """

    def __init__(self, width: int, *, end: str = "mean") -> None:
        super().__init__()
        self.end = end
        self.stem, self.gate = nn.Conv2d(3, width, 2, 2), nn.Conv2d(width, 1, 1)
        self.first = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + functional.gelu(self.first(x))
        x = x + self.second(x) * self.gate(x).sigmoid()
        return self.head(x.mean((2, 3)) if self.end == "mean" else x.flatten(2).mean(2))


class AlongRows(nn.Module):
    """A linear map of each row of a map's pixels: of 8 numbers, whatever the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 28, 1), nn.Conv2d(28, 28, 3, padding=1, groups=28)
        self.rows = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.rows(self.depthwise(self.stem(x))).mean((1, 2))


def quantized(model: nn.Module, *, method: str = "minmax", size: int = 8) -> QuantizedNetwork:
    torch.manual_seed(1)
    network = capture(model.eval(), size=size) if not isinstance(model, QuantizedNetwork) else model
    images = torch.randn(4, 3, size, size)
    return quantize(network, QuantizationSpec(method=method, runtime="onnxruntime"), Calibration(images))


def widths(network: QuantizedNetwork) -> dict[str, tuple[int, int]]:
    """What weights there are in the lowered network: outputs and inputs by name."""
    lowered = lowering.lower(network).get_submodule("operators")
    found: dict[str, tuple[int, int]] = {}
    for made in lowered.children():
        operator = made.operator if isinstance(made, IntegerOperator) else made
        if isinstance(operator, Convolution | Linear):
            outputs, inputs, *_ = operator.weight.shape
            found[operator.name] = outputs, inputs
    return found


def logits(network: QuantizedNetwork, folder, name: str) -> Tensor:
    """Of one image, by ONNX Runtime."""
    path = folder / f"{name}.onnx"
    path.write_bytes(trace(lowering.lower(network), network.size).SerializeToString())
    torch.manual_seed(2)
    image = torch.randn(1, 3, network.size, network.size).numpy()
    return torch.from_numpy(open_session(path, threads=1).run(None, {"image": image})[0])


def assert_same_results(network: QuantizedNetwork, folder) -> None:
    """The file computes what it does without added channels, to the bit."""
    padded = logits(network, folder, "padded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "pad_channels", lambda *_: None)
        plain = logits(network, folder, "plain")
    assert torch.equal(padded, plain)
    assert plain.std() > 0


def test_whole_inverted_residuals_are_widened(tmp_path) -> None:
    network = quantized(Expanded(40))
    assert widths(network) == {
        "stem": (12, 3),
        "expand": (48, 12),
        "depthwise": (48, 1),
        "squeeze": (6, 48),
        "excite": (48, 6),
        "project": (12, 48),
        "head": (5, 12),
    }
    assert_same_results(network, tmp_path)


def test_residual_streams_are_widened_from_the_image_to_the_head(tmp_path) -> None:
    network = quantized(Stream(28))
    assert widths(network) == {
        "stem": (32, 3),
        "gate": (1, 32),
        "first": (32, 1),
        "second": (32, 1),
        "head": (5, 32),
    }
    assert_same_results(network, tmp_path)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Stream(28, end="tokens"), "tokens have as many channels as they were written with"),
        (AlongRows(), "what reads the channels has no weights for them"),
        (Expanded(48), "whole blocks"),
        (Expanded(18), "14 channels more than 18 cost more than they save"),
    ],
    ids=["tokens", "rows", "whole", "few"],
)
def test_nothing_is_widened(model, why) -> None:
    before = {name: tuple(p.shape[:2]) for name, p in model.named_parameters() if name.endswith("weight")}
    assert {f"{name}.weight": shape for name, shape in widths(quantized(model)).items()} == before, why


def test_other_runtimes_get_no_more_channels() -> None:
    torch.manual_seed(0)
    network = capture(Expanded(40).eval(), size=8)
    spec = QuantizationSpec(method="minmax", runtime="openvino")
    assert widths(quantize(network, spec, Calibration(torch.randn(4, 3, 8, 8))))["depthwise"] == (40, 1)


def test_the_quantized_network_stays_as_it_is() -> None:
    network = quantized(Expanded(40))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    lowering.lower(network)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert network.operator("depthwise").groups == 40


@settings(max_examples=6, deadline=None)
@given(
    width=st.integers(20, 70), kernel=st.sampled_from([3, 5]), method=st.sampled_from(["minmax", "pocket"])
)
def test_any_width(tmp_path_factory, width, kernel, method) -> None:
    network = quantized(Expanded(width, kernel=kernel), method=method)
    (wide, _) = widths(network)["depthwise"]
    assert wide == (width if -width % BLOCK > width / 4 else width + -width % BLOCK)
    assert_same_results(network, tmp_path_factory.mktemp("files"))


@pytest.mark.parametrize("name", ["mobilenetv3_large_100", "swiftformer_xs"])
def test_families_with_such_widths(name) -> None:
    torch.manual_seed(0)
    model = pocketvit.create_model(name, num_classes=10).eval()
    network = quantized(prepare_for_quantization(model, size=64), size=64)
    depthwise = [o.name for o in network.operators.values() if isinstance(o, Convolution) and o.is_depthwise]
    made = widths(network)
    assert any(network.operator(o).groups % BLOCK for o in depthwise)
    assert all(made[o][0] % BLOCK == 0 for o in depthwise)


@pytest.mark.slow
def test_a_whole_network_computes_the_same(tmp_path) -> None:
    torch.manual_seed(0)
    model = pocketvit.create_model("mobilenetv3_large_100", num_classes=10).eval()
    assert_same_results(quantized(prepare_for_quantization(model, size=64), size=64), tmp_path)
