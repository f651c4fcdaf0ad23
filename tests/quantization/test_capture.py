"""The graph of operators computes what the network computes, for every family."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from pocketvit import create_model
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize

SMALLEST = {
    "mobilevit_xxs": {"convolution", "linear", "matmul", "addition", "norm", "softmax", "activation"},
    "mobilevitv2_050": {"convolution", "linear", "matmul", "multiplication", "addition", "norm", "softmax"},
    "swiftformer_xs": {"convolution", "multiplication", "reduction", "addition", "activation"},
    "cas_vit_xs": {"convolution", "multiplication", "addition", "reduction", "activation"},
    "mobile_former_26m": {"convolution", "linear", "matmul", "softmax", "norm", "addition"},
    "efficientformer_l1": {"convolution", "linear", "matmul", "softmax", "norm", "addition"},
    "efficientformerv2_s0": {"convolution", "linear", "matmul", "softmax", "addition"},
    "mobilenetv3_small_100": {"convolution", "linear", "multiplication", "addition", "activation"},
    "resnet18": {"convolution", "linear", "addition", "activation"},
}


def settled(name):
    """Weights and batch statistics as of a network that has seen images, so that logits are of size 1."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize("name", SMALLEST)
def test_computes_what_the_network_computes(name, shallow):
    model = shallow(settled(name))
    network = prepare_for_quantization(model, size=64)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = model.double()(images.double()), network(images)
        alone = network(images[:1])
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (alone - wanted[:1]).abs().max() < 1e-4 * wanted.abs().max()
    kinds = {operator.kind for operator in network.operators.values()}
    assert kinds >= SMALLEST[name]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050"])
def test_t13_maps_that_patches_do_not_divide(name, shallow):
    """At 80 px maps are 5 pixels wide and patches 2: both families interpolate."""
    model = shallow(settled(name), size=80)
    network = prepare_for_quantization(model, size=80)
    images = torch.randn(2, 3, 80, 80, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, found = model.double()(images.double()), network(images)
        assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
        quantized = quantize(network, QuantizationSpec(method="minmax"), Calibration(images, torch.arange(2)))
        rounded = quantized(images)
    assert 0 < (rounded - wanted).abs().max() < 0.5 * wanted.abs().max()


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
def test_t14_both_classifiers_count_and_position_biases_are_those_of_today(name, shallow):
    """The family averages two classifiers, here one map, and keeps what it computed of attention's biases."""
    model = shallow(settled(name))
    tables = [table for key, table in model.named_parameters() if key.endswith("attention_biases")]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(model.head.weight, model.head_dist.weight)
    with torch.no_grad():
        for key, scale in model.named_parameters():
            if key.endswith(".gamma"):
                scale.fill_(0.5)
        before = model(images)
        for table in tables:
            table.normal_(std=5)
        network = prepare_for_quantization(model, size=64)
        wanted = model.double()(images.double())
        assert (before - wanted).abs().max() > 1e-2 * wanted.abs().max()
        assert (network(images) - wanted).abs().max() < 1e-4 * wanted.abs().max()
    quantized = quantize(network, QuantizationSpec(method="minmax"), Calibration(images, torch.arange(2)))
    (classifier,) = (o for o in quantized.operators.values() if o.module.startswith("head"))
    assert classifier.weight_quantizer is not None
    assert classifier.input_quantizers[0] is not None


def test_batch_normalisations_are_folded(shallow):
    network = prepare_for_quantization(shallow(settled("mobilevit_xxs")), size=64)
    assert not any("batch_norm" in function for function in network.float_functions)


def test_names_are_unique_and_begin_with_their_module(tiny):
    for name, operator in tiny.operators.items():
        assert name == operator.name
        assert name.startswith(operator.module)
    assert Counter(o.kind for o in tiny.operators.values()) == {
        "convolution": 3,
        "linear": 3,
        "matmul": 2,
        "activation": 3,
        "multiplication": 1,
        "addition": 1,
        "norm": 1,
        "softmax": 1,
        "reduction": 1,
    }


def test_operands_with_one_source_read_the_same_numbers(tiny):
    assert tiny.sources["depthwise", 0] == tiny.sources["gate", 0]
    assert tiny.sources["attention/addition", 0] == tiny.sources["attention.norm/norm", 0]
    assert tiny.sources["attention/matmul", 0] == tiny.sources["attention/matmul", 1]  # parts of qkv
    assert tiny.sources["head", 0] != tiny.sources["attention.qkv", 0]


class Masked(nn.Module):
    """Constants, a bias added by hand, a product from the left, fused attention."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.randn(4))
        self.table = nn.Parameter(torch.randn(16, 16))

    def forward(self, x):
        tokens = (self.weight @ x.flatten(2) + self.bias[:, None]).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(
            tokens, tokens, tokens, attn_mask=self.table * 2
        )
        return attended.mean(1)


def test_constants_biases_and_fused_attention():
    model = Masked()
    network = capture(model, size=4, in_chans=6)
    images = torch.randn(5, 6, 4, 4)
    assert torch.allclose(network(images), model(images), atol=1e-5)
    (linear,) = (o for o in network.operators.values() if o.kind == "linear")
    assert linear.bias is not None
    assert [o.kind for o in network.operators.values()] == [
        "linear",
        "matmul",
        "softmax",
        "matmul",
        "reduction",
    ]


class Hiding(nn.Module):
    """Means of the tokens of either half, by weights: scores of the other half are hidden by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.randn(1, 6))
        hidden = torch.zeros(2, 16)
        hidden[0, 8:] = hidden[1, :8] = torch.finfo(torch.float32).min / 2
        self.register_buffer("hidden", hidden)

    def forward(self, x):
        tokens = x.flatten(2)
        return ((self.score @ tokens + self.hidden).softmax(-1) @ tokens.transpose(1, 2)).flatten(1)


class HidingFused(nn.Module):
    """The same by torch's fused attention, which is told what counts."""

    def __init__(self, dtype: torch.dtype = torch.bool) -> None:
        super().__init__()
        counts = torch.ones(16, 16, dtype=torch.bool).tril()
        self.register_buffer("counts", counts if dtype == torch.bool else (~counts) * -1e9)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens, attn_mask=self.counts)
        return attended.flatten(1)


@pytest.mark.parametrize("build", [Hiding, HidingFused, lambda: HidingFused(torch.float32)])
def test_hidden_scores_do_not_widen_the_range_of_those_that_count(build):
    torch.manual_seed(0)
    model, images = build(), torch.randn(4, 6, 4, 4)
    network = capture(model, size=4, in_chans=6)
    assert torch.allclose(network(images), model(images), atol=1e-5)
    quantized = quantize(network, QuantizationSpec(method="minmax", scope="full"), Calibration(images))
    (softmax,) = (o for o in quantized.operators.values() if o.kind == "softmax")
    assert softmax.input_quantizers[0].scale < 0.1
    error = (quantized(images) - model(images)).square().mean() / model(images).var()
    assert error < 1e-3


class Biased(nn.Module):
    """A mask in a sum that more than softmax reads."""

    def forward(self, x):
        hidden = torch.tensor([0.0, -1e9, 0.0, 0.0])
        sums = x.mean(1) + hidden
        return sums.softmax(-1).flatten(1) + sums.sigmoid().flatten(1)


def test_a_mask_that_hides_nothing_is_none():
    model = HidingFused()
    model.counts.fill_(True)
    network, images = capture(model, size=4, in_chans=6), torch.randn(4, 6, 4, 4)
    assert torch.allclose(network(images), model(images), atol=1e-5)
    (softmax,) = (o for o in network.operators.values() if o.kind == "softmax")
    assert softmax.mask is None
    assert not any("add" in function for function in network.float_functions)


def test_a_mask_that_others_read_stays_a_sum():
    network = capture(Biased(), size=4, in_chans=6)
    images = torch.randn(4, 6, 4, 4)
    assert torch.allclose(network(images), Biased()(images))
    (softmax,) = (o for o in network.operators.values() if o.kind == "softmax")
    assert softmax.mask is None


def test_the_network_is_not_changed(tiny_model):
    before = {key: value.clone() for key, value in tiny_model.state_dict().items()}
    tiny_model.train()
    capture(tiny_model, size=16)
    assert tiny_model.training
    tiny_model.eval()
    assert all(torch.equal(value, before[key]) for key, value in tiny_model.state_dict().items())


class Normalised(nn.Module):
    """Division by length, as the exact rewrites spell it, of values that differ by powers of ten."""

    def forward(self, x):
        tokens = x.flatten(2)
        return (tokens * (tokens * tokens).sum(1, keepdim=True).clamp(min=1e-12).rsqrt()).mean(2)


@pytest.mark.parametrize("scope", ["partial", "full"])
def test_division_by_length_survives_8_bits(scope):
    images = torch.randn(8, 4, 6, 6) * torch.logspace(-3, 0, 36).reshape(6, 6)
    network = capture(Normalised(), size=6, in_chans=4)
    assert [o.kind for o in network.operators.values()] == ["multiplication", "reduction"]
    assert {function.split(": ")[1] for function in network.float_functions} == {
        "sum",
        "clamp",
        "rsqrt",
        "mul",
    }
    quantized = quantize(network, QuantizationSpec(method="minmax", scope=scope), Calibration(images))
    with torch.no_grad():
        found, wanted = quantized(images), network(images)
    assert torch.isfinite(found).all()
    assert scope == "full" or (found - wanted).abs().max() < 0.02
