"""No two neighbouring products overflow 16 bits, whatever chose the weights, and little is lost by it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.quantization import METHODS, QuantizationSpec, quantize
from pocketvit.quantization.correction import correct_weights, least_error_weights
from pocketvit.quantization.operators import Convolution, Linear
from pocketvit.quantization.pairs import PairedQuantizer, avoid_overflow, overflow_safe, rest_of_pair
from pocketvit.quantization.quantizers import UniformQuantizer


def saturating_sums(integers: torch.Tensor, reads: torch.Tensor) -> torch.Tensor:
    """As `vpmaddubsw` and `vpmaddwd` sum: pairs clipped to 16 bits, then added. (out, k) and (k,)."""
    products = integers.long() * reads.long()
    padded = torch.nn.functional.pad(products, (0, products.shape[1] % 2))
    return padded.unflatten(1, (-1, 2)).sum(dim=2).clamp(-(2**15), 2**15 - 1).sum(dim=1)


def convolution(out: int, channels: int, kernel: int, groups: int = 1) -> Convolution:
    weight = torch.randn(out, channels, kernel, kernel, generator=torch.Generator().manual_seed(0))
    return Convolution(
        name="x",
        module="x",
        weight=weight,
        stride=(1, 1),
        padding=(kernel // 2,) * 2,
        dilation=(1, 1),
        groups=groups,
    )


def grid_of(weight: torch.Tensor, bits: int = 8) -> UniformQuantizer:
    bound = weight.abs().flatten(1).amax(dim=1)
    return UniformQuantizer.from_range(-bound, bound, bits=bits, scheme="symmetric", axis=0, narrow=True)


@given(st.integers(1, 9), st.integers(0, 2**16), st.sampled_from([-128, -127]))
def test_sums_of_pairs_never_overflow(channels, seed, smallest):
    random = torch.Generator().manual_seed(seed)
    weight = torch.randint(smallest, 128, (4, channels), generator=random).float()
    quantizer = PairedQuantizer(scale=torch.ones(4), qmin=smallest, qmax=127, axis=0)
    found = quantizer.integers(weight)
    reads = torch.randint(0, 2, (channels,), generator=random) * 255
    assert torch.equal(saturating_sums(found, reads), (found.long() * reads).sum(dim=1))
    assert found.min() >= smallest
    assert found.max() <= 127
    assert torch.equal(quantizer.integers(quantizer(weight)), found)
    fits = (weight[:, : channels // 2 * 2].unflatten(1, (-1, 2)).sum(dim=2).abs() <= 128).all(dim=1)
    same_sign = (weight[:, : channels // 2 * 2].unflatten(1, (-1, 2)).sign().diff(dim=2) == 0).all()
    if same_sign:
        assert torch.equal(found[fits].float(), weight[fits])


@pytest.mark.parametrize("first", [-128, -1, 0, 1, 127])
def test_the_second_of_a_pair_has_what_the_first_leaves(first):
    grid = UniformQuantizer(scale=torch.tensor(1.0), qmin=-127, qmax=127, axis=None)
    low, high = rest_of_pair(torch.tensor(float(first)), grid)
    fitting = [b for b in range(-127, 128) if max(first, 0) + max(b, 0) <= 128 >= -min(first, 0) - min(b, 0)]
    assert (low, high) == (min(fitting), max(fitting))


def test_who_has_neighbours():
    dense = convolution(4, 6, 3)
    assert isinstance(overflow_safe(grid_of(dense.weight), dense), PairedQuantizer)
    assert overflow_safe(grid_of(dense.weight, bits=6), dense).bits == 6
    depthwise = convolution(6, 1, 3, groups=6)
    assert type(overflow_safe(grid_of(depthwise.weight), depthwise)) is UniformQuantizer
    image = convolution(4, 3, 3)
    half = overflow_safe(grid_of(image.weight), image)
    assert (half.qmin, half.qmax) == (-64, 64)
    reach = image.weight.abs().flatten(1).amax(dim=1)
    torch.testing.assert_close(half(image.weight).abs().flatten(1).amax(dim=1), reach)
    several = convolution(12, 1, 3, groups=6)
    assert overflow_safe(grid_of(several.weight), several).qmax == 64


@pytest.mark.parametrize("kind", ["linear", "pointwise", "dense"])
def test_safe_weights_err_hardly_more_than_others(kind):
    random = torch.Generator().manual_seed(1)
    if kind == "linear":
        operator = Linear(name="x", module="x", weight=torch.randn(16, 24, generator=random))
        x = torch.rand(32, 40, 24, generator=random)
    else:
        operator = convolution(16, 24, 1 if kind == "pointwise" else 3)
        x = torch.rand(32, 24, 7, 7, generator=random)
    original = operator.weight.clone()
    wanted = operator.compute([x], original)
    errors = []
    for safe in (False, True):
        operator.weight = torch.nn.Parameter(original, requires_grad=False)
        quantizer = least_error_weights(operator, x, bits=8, safe=safe)
        correct_weights(operator, x, wanted, quantizer)
        integers = quantizer.integers(operator.weight)
        assert torch.equal(quantizer(operator.weight), operator.weight)
        pairs = integers.unflatten(1, (-1, 2)).clamp_min(0).sum(dim=2).max()
        assert (pairs <= 128) == safe
        errors.append((operator.compute([x], quantizer(operator.weight)) - wanted).square().mean())
    assert errors[1] < 2.5 * errors[0]  # a coarser grid of half as many steps has four times as much


@pytest.mark.parametrize(
    ("name", "runtime"),
    [*((name, "onnxruntime") for name, method in METHODS.items() if method.integer), ("pocket", "openvino")],
)
def test_no_method_leaves_weights_that_overflow(tiny, calibration, name, runtime):
    network = quantize(tiny, QuantizationSpec(method=name, runtime=runtime), calibration)
    found = [o for o in network.operators.values() if isinstance(o.weight_quantizer, UniformQuantizer)]
    assert any(isinstance(o.weight_quantizer, PairedQuantizer) for o in found)
    for operator in found:
        integers = operator.weight_quantizer.integers(operator.weight)
        if isinstance(operator, Convolution) and operator.is_depthwise:
            continue
        if integers.shape[1] % 2:
            assert integers.abs().max() <= 64
            continue
        pairs = integers.unflatten(1, (-1, 2))
        assert pairs.clamp_min(0).sum(dim=2).max() <= 128
        assert pairs.clamp_max(0).sum(dim=2).min() >= -128


def test_the_papers_setting_is_left_alone(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
    grids = [o.weight_quantizer for o in network.operators.values()]
    assert not any(isinstance(grid, PairedQuantizer) for grid in grids)


def test_grids_that_no_kernel_takes_are_left_alone():
    operator = convolution(4, 6, 1)
    grid = UniformQuantizer(scale=torch.ones(6), qmin=-127, qmax=127, axis=1)
    operator.weight_quantizer = grid
    avoid_overflow([operator])
    assert operator.weight_quantizer is grid
