"""What no kernel of a runtime rounds is not rounded in its simulation either, and says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture, quantize
from pocketvit.quantization.operators import Addition, Multiplication


class Sums(nn.Module):
    """A sum that a convolution alone reads, a sum that a norm reads too, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.third, self.gate = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.head = nn.GroupNorm(1, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.first(x) + torch.tanh(x))
        x = self.second(x)
        x = x + self.third(self.norm(x))
        return self.head((x * torch.sigmoid(self.gate(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def captured() -> QuantizedNetwork:
    torch.manual_seed(0)
    return capture(Sums(), size=8)


def quantized(network: QuantizedNetwork, runtime: str | None) -> QuantizedNetwork:
    calibration = Calibration(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    return quantize(network, QuantizationSpec(method="minmax", runtime=runtime), calibration)


def of(network: QuantizedNetwork, kind: type) -> list:
    return [operator for operator in network.operators.values() if isinstance(operator, kind)]


def test_without_a_runtime_all_that_is_read_is_rounded(captured) -> None:
    network = quantized(captured, None)
    for operator in of(network, Addition) + of(network, Multiplication):
        assert None not in operator.input_quantizers
        assert not operator.float_reason


def test_openvino_adds_and_multiplies_in_float(captured) -> None:
    network = quantized(captured, "openvino")
    first, second = of(network, Addition)
    assert not first.has_quantizers
    assert first.float_reason.startswith("OpenVINO computes sums in float")
    assert not second.has_quantizers, "the norm reads the other term in float"
    (product,) = of(network, Multiplication)
    by_producer = {network.producer((product.name, i)).kind: product.input_quantizers[i] for i in range(2)}
    assert by_producer["addition"] is not None, "the gate's convolution reads this one in integers anyway"
    assert by_producer["activation"] is None


def test_onnx_runtime_adds_integers_only_where_integers_are_wanted(captured) -> None:
    network = quantized(captured, "onnxruntime")
    first, second = of(network, Addition)
    assert None not in first.input_quantizers, "behind ReLU a convolution alone reads it"
    assert None not in second.input_quantizers, "a convolution and a product read it on one grid"
    (product,) = of(network, Multiplication)
    assert None not in product.input_quantizers, "the mean over pixels has an integer kernel"

    class Read(Sums):
        def forward(self, x):
            x = self.stem(x)
            x = self.first(x) + torch.tanh(x)
            return self.head(self.norm(x).mean((2, 3)))

    (sum_,) = of(quantized(capture(Read(), size=8), "onnxruntime"), Addition)
    assert not sum_.has_quantizers
    assert "also read in float" in sum_.float_reason


def test_a_residual_sum_reads_integers_that_are_there_anyway() -> None:
    class Residual(Sums):
        def forward(self, x):
            x = self.stem(x)
            x = x + self.second(torch.relu(self.first(x)))
            return self.head(x.mean((2, 3)))

    network = quantized(capture(Residual(), size=8), "openvino")
    (sum_,) = of(network, Addition)
    by_producer = {network.producer((sum_.name, i)).name: sum_.input_quantizers[i] for i in range(2)}
    assert by_producer["second"] is None, "added inside the convolution"
    assert by_producer["stem"] is not None
    assert by_producer["stem"].same_grid(network.operator("first").input_quantizers[0])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_only_a_product_in_float_reads_is_not_rounded_for_the_sum_behind(runtime: str) -> None:
    class Tokens(Sums):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.Linear(8, 8)

        def forward(self, x):
            tokens = torch.tanh(self.stem(x).mean((2, 3)))
            return self.head(torch.tanh(tokens + self.small(tokens)))

    network = quantized(capture(Tokens(), size=8), runtime)
    assert network.operator("small").weights_only
    (sum_,) = of(network, Addition)
    assert not sum_.has_quantizers
    assert sum_.float_reason
