from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture
from pocketvit.quantization.integer_norm import IntegerNorm
from pocketvit.quantization.integer_softmax import IntegerSoftmax
from pocketvit.quantization.logarithmic import LogarithmicQuantizer
from pocketvit.quantization.methods.fqvit import FQVIT, widest
from pocketvit.quantization.operators import MatMul, Norm, Softmax
from pocketvit.quantization.quantize import operators_to_quantize
from pocketvit.quantization.quantizers import UniformQuantizer

DIM = 8


class Attention(nn.Module):
    """Self-attention over the pixels of a map behind a norm of the whole map, in two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, DIM, 4, 4), nn.GroupNorm(1, DIM)
        self.qkv, self.head = nn.Conv2d(DIM, 3 * DIM, 1), nn.Linear(DIM, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, 2, -1)).unbind(1)
        y = (q.mT @ k).softmax(-1) @ v.mT
        return self.head((y.transpose(1, 2).flatten(2) + x.flatten(2).mT).mean(1))


def quantized(scope: str, bits: int, images: Tensor | None = None) -> tuple[QuantizedNetwork, Calibration]:
    torch.manual_seed(0)
    net = capture(Attention().eval(), size=16)
    data = Calibration(torch.randn(6, 3, 16, 16) if images is None else images)
    spec = QuantizationSpec.model_validate({"weights": bits, "activations": bits, "scope": scope})
    FQVIT.calibrate(net, operators_to_quantize(net, spec), data, spec)
    return net, data


def error(net: QuantizedNetwork, data: Calibration) -> float:
    with torch.no_grad():
        found = net(data.images)
        with net.only([]):
            wanted = net(data.images)
    return float((found - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize(("bits", "limit"), [(8, 1e-3), (6, 1e-2)])
def test_partial_scope_leaves_norms_and_softmax_in_float(bits: int, limit: float) -> None:
    net, data = quantized("partial", bits)
    for operator in net.operators.values():
        assert not isinstance(operator, IntegerNorm | IntegerSoftmax)
        assert operator.has_quantizers != isinstance(operator, Norm | Softmax)
        for quantizer in operator.input_quantizers:
            assert quantizer is None or (isinstance(quantizer, UniformQuantizer) and quantizer.axis is None)
    assert error(net, data) < limit


@pytest.mark.parametrize(("bits", "limit"), [(8, 0.1), (6, 0.1)])
def test_full_scope_computes_norms_and_softmax_in_integers(bits: int, limit: float) -> None:
    net, data = quantized("full", bits)
    operators = list(net.operators.values())
    assert {type(o) for o in operators if isinstance(o, Norm | Softmax)} == {IntegerNorm, IntegerSoftmax}
    _, attended = (o for o in operators if isinstance(o, MatMul))
    powers = attended.input_quantizers[0]
    assert isinstance(powers, LogarithmicQuantizer)
    assert (powers.bits, powers.steps) == (4, 1)
    softmax = next(o for o in operators if isinstance(o, IntegerSoftmax))
    weights = softmax(torch.randn(2, 6, 6))
    assert torch.equal(powers(weights), weights)  # softmax has rounded already
    assert error(net, data) < limit


def test_t12_scales_of_a_norm_run_along_its_channels() -> None:
    net, _ = quantized("full", 8)
    (norm,) = (o for o in net.operators.values() if isinstance(o, IntegerNorm))
    grid = norm.input_quantizers[0]
    assert isinstance(grid, UniformQuantizer)
    assert (grid.axis, len(grid.scale)) == (1, DIM)
    assert len(grid.zero_point.unique()) == 1


def test_the_range_of_weights_is_that_of_the_largest() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0], [127.5, 3.0]])
    quantizer = widest(weight, bits=8)
    assert quantizer.scale.tolist()[0] == pytest.approx(2 / 127.5)
    assert quantizer.scale.tolist()[2] == pytest.approx(1)
    assert quantizer(weight)[2].tolist() == [127, 3]
    assert torch.equal(quantizer(weight)[1], weight[1])


@pytest.mark.parametrize("scope", ["partial", "full"])
def test_images_without_contrast_leave_nothing_that_is_not_finite(scope: str) -> None:
    net, data = quantized(scope, 6, torch.zeros(2, 3, 16, 16))
    assert torch.isfinite(net(data.images)).all()
    assert torch.isfinite(net(torch.randn(2, 3, 16, 16))).all()


def test_what_is_kept_in_float_stays_as_it_is() -> None:
    torch.manual_seed(0)
    net = capture(Attention().eval(), size=16)
    spec = QuantizationSpec(scope="full", keep_float=("norm/norm", "*softmax*"))
    FQVIT.calibrate(net, operators_to_quantize(net, spec), Calibration(torch.randn(4, 3, 16, 16)), spec)
    assert not any(isinstance(o, IntegerNorm | IntegerSoftmax) for o in net.operators.values())
    _, attended = (o for o in net.operators.values() if isinstance(o, MatMul))
    assert isinstance(attended.input_quantizers[0], UniformQuantizer)
