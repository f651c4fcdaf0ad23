from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, capture, quantize
from pocketvit.quantization.calibration import Sample, samples
from pocketvit.quantization.methods.easyquant import alternate, cover, scale_searches, symmetric
from pocketvit.quantization.objectives import Cosine, GradientWeighted
from pocketvit.quantization.operators import Linear, MatMul, Operator
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.search import factors

SIZE, IMAGES = 8, 6
GRID = factors(0.5, 1.2, 100)


class Hybrid(nn.Module):
    """A dense and a depthwise convolution, attention with two heads and fused q, k, v, and a head."""

    def __init__(self, *, dim: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, dim, 3, 2, 1)
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = x + self.depthwise(x)
        parts = self.qkv(x.flatten(2).mT).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts.unbind()
        y = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head(y.mean(1))


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    torch.manual_seed(0)
    return capture(Hybrid(), size=SIZE)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration(torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))


def operator_of(network: QuantizedNetwork, calibration: Calibration, name: str) -> tuple[Operator, Sample]:
    """A fresh copy of one operator and its sample."""
    quantized = quantize(network, QuantizationSpec(method="minmax", keep_float=("*",)), calibration)
    return next(found for found in samples(quantized, calibration) if found[0].name == name)


def rounded(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return scale * (x.double() / scale).round().clamp(-half, half - 1)


def by_hand(operator: Operator, x: Tensor, weight: Tensor) -> Tensor:
    """The operator in double precision."""
    assert operator.bias is not None
    if isinstance(operator, Linear):
        return functional.linear(x, weight, operator.bias.double())
    groups = getattr(operator, "groups", 1)
    stride, padding = operator.stride, operator.padding
    return functional.conv2d(x, weight, operator.bias.double(), stride, padding, groups=groups)


def angle(output: Tensor, target: Tensor) -> Tensor:
    return 1 - functional.cosine_similarity(output.flatten(), target.double().flatten(), dim=0)


def test_symmetric_covers_the_largest_value():
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert symmetric(x, bits=8).scale == pytest.approx(float(x.abs().max()) / 127.5)
    rows = symmetric(x, bits=4, axis=0)
    torch.testing.assert_close(rows.scale, x.abs().amax(1) / 7.5)
    assert (rows.qmin, rows.qmax, rows.axis) == (-8, 7, 0)
    blocks = symmetric(torch.randn(6, 4), bits=8, axis=0, blocks=3)
    assert torch.equal(blocks.scale[::2], blocks.scale[1::2])


@pytest.mark.parametrize("name", ["stem", "depthwise"])
@pytest.mark.parametrize("bits", [4, 8])
def test_t2_weights_of_a_convolution_against_exhaustive_search(network, calibration, name, bits):
    operator, sample = operator_of(network, calibration, name)
    spec = QuantizationSpec(method="easyquant", weights=bits, activations=bits)
    cover(operator, sample, spec)
    found = scale_searches(operator, sample, Cosine(sample.output), GRID)[None]()
    assert isinstance(found, UniformQuantizer)
    (x,) = sample.inputs
    x = rounded(x, x.abs().max().double() / (2 ** (bits - 1) - 0.5), bits)
    for channel, weight in enumerate(operator.weight):
        largest = weight.abs().max().double() / (2 ** (bits - 1) - 0.5)
        losses = []
        for factor in [*GRID, float(found.scale[channel] / largest)]:
            tried = operator.weight.double().clone()
            tried[channel] = rounded(weight, largest * factor, bits)
            losses.append(angle(by_hand(operator, x, tried)[:, channel], sample.output[:, channel]))
        assert losses[-1] <= min(losses) * 1.001 + 1e-9


@pytest.mark.parametrize("name", ["stem", "depthwise", "head"])
def test_inputs_against_exhaustive_search(network, calibration, name):
    operator, sample = operator_of(network, calibration, name)
    cover(operator, sample, QuantizationSpec(method="easyquant", weights=6, activations=6))
    found = scale_searches(operator, sample, Cosine(sample.output), GRID)[0]()
    assert isinstance(found, UniformQuantizer)
    (x,) = sample.inputs
    weight = operator.quantized_weight().double()
    largest = x.abs().max().double() / 31.5

    def loss(scale: Tensor) -> float:
        output = by_hand(operator, rounded(x, scale, 6), weight)
        rows = [angle(o, t) for o, t in zip(output, sample.output, strict=True)]
        return float(torch.stack(rows).mean())

    best = min(loss(largest * factor) for factor in GRID)
    assert loss(found.scale.double()) <= best * 1.001 + 1e-9
    assert loss(found.scale.double()) < loss(largest) or best == pytest.approx(loss(largest), rel=1e-3)


def test_t6_weights_and_inputs_have_their_own_widths(network, calibration):
    spec = QuantizationSpec(method="easyquant", weights=4, activations=8)
    operator, sample = operator_of(network, calibration, "depthwise")
    cover(operator, sample, spec)
    weights, inputs = operator.weight_quantizer, operator.input_quantizers[0]
    assert isinstance(weights, UniformQuantizer)
    assert isinstance(inputs, UniformQuantizer)
    torch.testing.assert_close(weights.scale, operator.weight.flatten(1).abs().amax(1) / 7.5)
    torch.testing.assert_close(inputs.scale, sample.inputs[0].abs().max() / 127.5)


def test_t7_both_ends_of_the_grid_are_tried(network, calibration):
    assert len(GRID) == 100
    assert (GRID[0], GRID[-1]) == (0.5, 1.2)
    operator, sample = operator_of(network, calibration, "head")
    cover(operator, sample, QuantizationSpec(method="easyquant"))
    base = operator.input_quantizers[0]

    class Widest(Cosine):
        """Prefers the widest range there is."""

        def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
            tried.append(output)
            return -torch.tensor(float(len(tried)))

    # Candidates come from the nearest to 1 to the farthest, so the last and best are the ends.
    tried: list[Tensor] = []
    lowest = scale_searches(operator, sample, Widest(sample.output), GRID)[0]()
    assert lowest.scale == base.scale * 0.5
    tried.clear()
    upper = [f for f in GRID if f >= 1]
    assert scale_searches(operator, sample, Widest(sample.output), upper)[0]().scale == base.scale * 1.2


def test_t11_convolutions_read_as_few_bits_as_the_rest(network, calibration):
    quantized = quantize(network, QuantizationSpec(method="easyquant", weights=6, activations=6), calibration)
    read = {q.bits for o in quantized.operators.values() for q in o.input_quantizers if q is not None}
    assert read == {6}
    assert all(
        q is not None
        for o in quantized.operators.values()
        if o.in_partial_scope
        for q in [*o.input_quantizers, *([o.weight_quantizer] if o.weight is not None else [])]
    )


def test_granularity(network, calibration):
    quantized = quantize(network, QuantizationSpec(method="easyquant"), calibration)
    for operator in quantized.operators.values():
        for quantizer in operator.input_quantizers:
            if quantizer is not None:
                assert quantizer.axis == (1 if isinstance(operator, MatMul) else None)
                assert quantizer.scheme == "symmetric"
    assert quantized.operator("stem").weight_quantizer.axis == 0
    assert quantized.operator("head").weight_quantizer.axis is None
    scale = quantized.operator("qkv").weight_quantizer.scale
    assert len(scale.unflatten(0, (3, -1)).unique(dim=1)[0]) == 1


def test_rows_that_share_a_scale_are_judged_together(network, calibration):
    operator, sample = operator_of(network, calibration, "qkv")
    cover(operator, sample, QuantizationSpec(method="easyquant", weights=4, activations=8))
    gradient = torch.randn(sample.output.shape, generator=torch.Generator().manual_seed(2))
    found = scale_searches(operator, sample, GradientWeighted(sample.output, gradient), GRID)[None]()
    x = operator.quantized_inputs(sample.inputs)[0].double()
    for weight, bias, target, g, scale in zip(
        *(part.chunk(3) for part in (operator.weight, operator.bias)),
        *(part.double().chunk(3, -1) for part in (sample.output, gradient)),
        found.scale.chunk(3),
        strict=True,
    ):
        largest = weight.abs().max().double() / 7.5
        losses = [
            float(((functional.linear(x, rounded(weight, s, 4), bias.double()) - target) * g).square().mean())
            for s in [*(largest * factor for factor in GRID), scale[0].double()]
        ]
        assert losses[-1] <= min(losses) * 1.001


def test_products_are_searched_a_head_at_a_time(network, calibration):
    name = next(o.name for o in network.operators.values() if isinstance(o, MatMul))
    operator, sample = operator_of(network, calibration, name)
    cover(operator, sample, QuantizationSpec(method="easyquant", weights=4, activations=4))
    found = scale_searches(operator, sample, Cosine(sample.output), GRID)[0]()
    q, k = sample.inputs
    k = operator.quantized_inputs(sample.inputs)[1].double()
    for head in range(q.shape[1]):
        largest = q[:, head].abs().max().double() / 7.5
        losses = [
            angle(rounded(q[:, head], scale, 4) @ k[:, head], sample.output[:, head])
            for scale in [*(largest * factor for factor in GRID), found.scale[head].double()]
        ]
        assert losses[-1] <= min(losses) * 1.001 + 1e-9


def test_alternate_skips_only_what_would_find_the_same(network, calibration):
    def run(*, lazily: bool) -> Operator:
        operator, sample = operator_of(network, calibration, "stem")
        cover(operator, sample, QuantizationSpec(method="easyquant", weights=4, activations=4))
        searches = scale_searches(operator, sample, Cosine(sample.output), GRID)
        if lazily:
            alternate(operator, searches, rounds=4)
        else:
            for _ in range(4):
                operator.weight_quantizer = searches[None]()
                operator.set_input(0, searches[0]())
        return operator

    states = [run(lazily=lazily).state_dict() for lazily in (True, False)]
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_full_scope_searches_norms_softmax_and_activation_functions(network, calibration):
    quantized = quantize(network, QuantizationSpec(method="easyquant", scope="full"), calibration)
    assert all(o.has_quantizers for o in quantized.operators.values())
    partial = quantize(network, QuantizationSpec(method="easyquant"), calibration)
    assert all(o.has_quantizers == o.in_partial_scope for o in partial.operators.values())


@given(
    bits=st.sampled_from([2, 4, 8]),
    power=st.integers(-30, 15),
    kind=st.sampled_from(["normal", "zero", "positive", "negative", "constant"]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4)),
)
@examples(max_examples=15)
def test_any_tensor_is_finite_and_no_layer_dies(bits, power, kind, shape):
    images, dim = shape
    torch.manual_seed(0)
    operator = Linear(name="layer", module="layer", weight=torch.randn(3, dim), bias=torch.zeros(3))
    x = torch.randn(images, dim)
    x = {
        "normal": x,
        "zero": x * 0,
        "positive": x.abs(),
        "negative": -x.abs(),
        "constant": torch.ones_like(x),
    }[kind] * 10.0**power
    sample = Sample((x,), operator(x))
    cover(operator, sample, QuantizationSpec(method="easyquant", weights=bits, activations=bits))
    with torch.no_grad():
        alternate(operator, scale_searches(operator, sample, Cosine(sample.output), GRID), rounds=1)
    assert torch.isfinite(operator(x)).all()
    if kind != "zero" and power > -25:
        assert operator.quantized_inputs([x])[0].any()
        assert operator.quantized_weight().any()
