"""Tokens by rows: the same numbers, by products with transposed matrices."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, fx, nn

import pocketvit
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.layout import take_tokens_by_rows
from pocketvit.quantization.lowering import lower


class Pooling(nn.Module):
    """Scores of a map's pixels weigh its pixels; their sum moves another map."""

    def __init__(self, *, transposes: bool = True) -> None:
        super().__init__()
        self.transposes = transposes
        self.stem, self.score = nn.Conv2d(3, 8, 2, 2), nn.Parameter(torch.randn(4, 8))
        self.other, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        tokens = x.flatten(2)
        scores = (self.score @ tokens).softmax(dim=-1)
        if not self.transposes:
            return scores.flatten(1)
        means = scores @ tokens.transpose(1, 2)  # (B, 4, C)
        return self.head(self.other(x).flatten(2).mean(2) + means.mean(1))


def functions(graph_module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]


def test_the_same_numbers_with_rows_first() -> None:
    torch.manual_seed(0)
    network = capture(Pooling().eval(), size=8)
    before, graph_module = network.graph_module, copy.deepcopy(network.graph_module)
    images = torch.randn(3, 3, 8, 8)
    want = before(images)
    take_tokens_by_rows(graph_module, network)
    torch.testing.assert_close(graph_module(images), want)
    assert functions(before).count("aten.permute.default") == 0
    assert functions(graph_module).count("aten.permute.default") == 2, "to rows, and back for one product"
    assert functions(before).count("aten.transpose.int") == 1
    assert functions(graph_module).count("aten.transpose.int") == 0


def test_what_nothing_transposes_stays() -> None:
    network = capture(Pooling(transposes=False).eval(), size=8)
    before = functions(network.graph_module)
    take_tokens_by_rows(network.graph_module, network)
    assert functions(network.graph_module) == before


@pytest.mark.parametrize("name", ["mobilevitv2_050", "mobilevit_xxs", "swiftformer_xs", "efficientformer_l1"])
def test_whole_networks_compute_the_same(name) -> None:
    torch.manual_seed(0)
    model = pocketvit.create_model(name, num_classes=10).eval()
    network = prepare_for_quantization(model, size=64)
    graph_module = copy.deepcopy(network.graph_module)
    images = torch.randn(2, 3, 64, 64)
    want = network(images)
    take_tokens_by_rows(graph_module, network)
    torch.testing.assert_close(graph_module(images), want, rtol=1e-4, atol=1e-5)
    assert functions(graph_module) != functions(network.graph_module)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_only_files_for_openvino_are_written_so(runtime) -> None:
    torch.manual_seed(0)
    network = capture(Pooling().eval(), size=8)
    spec = QuantizationSpec(method="minmax", runtime=runtime)
    lowered = lower(quantize(network, spec, Calibration(torch.randn(4, 3, 8, 8))))
    assert isinstance(lowered, fx.GraphModule)
    assert ("aten.permute.default" in functions(lowered)) == (runtime == "openvino")
