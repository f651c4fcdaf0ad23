"""Output strides: sizes, dilations, and what stays equal to the network of stride 32."""

import json
from math import ceil

import pytest
import timm
import torch
from torch import nn

from pocketvit.backbones import create_model
from pocketvit.backbones.layers import Downsample
from pocketvit.backbones.options import BuildOptions, Reduction, reductions
from pocketvit.backbones.swiftformer import ConvEncoder
from pocketvit.core.errors import ConfigError

SMALLEST = ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs", "mobile_former_26m"]


def dilations(module):
    return [conv.dilation[0] for conv in module.modules() if isinstance(conv, nn.Conv2d)]


def test_levels_beyond_the_output_stride_keep_their_size_and_double_the_dilation():
    half, same, again = (
        Reduction(stride=2, first=1, dilation=1),
        Reduction(stride=1, first=1, dilation=2),
        Reduction(stride=1, first=2, dilation=4),
    )
    assert reductions(32) == (half, half, half)
    assert reductions(16) == (half, half, same)
    assert reductions(8) == (half, same, again)


@pytest.mark.parametrize("stride", [0, 4, 12, 64])
def test_other_output_strides_are_refused(stride):
    with pytest.raises(ConfigError, match=f"cannot be {stride}"):
        BuildOptions(output_stride=stride)


@pytest.mark.parametrize("given", [{}, {"output_stride": 16}, {"official_resize": True, "output_stride": 8}])
def test_options_to_plain_values_and_back(given):
    options = BuildOptions(**given)
    assert options.to_dict() == given
    assert BuildOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options


@pytest.mark.parametrize(
    ("given", "message", "fix"),
    [
        ({"offical_resize": True}, "no model option named 'offical_resize'", "Did you mean official_resize?"),
        ({"depth": 3}, "no model option named 'depth'", "There are: output_stride, official_resize"),
        ({"output_stride": True}, "output_stride cannot be True", "whole number"),
        ({"official_resize": "yes"}, "official_resize cannot be 'yes'", "true or false"),
        ({"output_stride": 7}, "output stride cannot be 7", "8, 16 or 32"),
    ],
)
def test_options_that_no_network_has(given, message, fix):
    with pytest.raises(ConfigError) as error:
        BuildOptions.from_dict(given)
    assert message in error.value.message
    assert fix in error.value.fix


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_levels_stop_at_the_output_stride(name, output_stride):
    model = create_model(name, features_only=True, output_stride=output_stride).eval()
    strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
    assert model.feature_info.reduction() == strides
    for H, W in ((64, 64), (75, 50)):
        with torch.no_grad():
            levels = model(torch.rand(1, 3, H, W))
        assert [level.shape[2:] for level in levels] == [(ceil(H / s), ceil(W / s)) for s in strides]
    plain = create_model(name, features_only=True).state_dict()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in plain.items()
    }


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (72, 104)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_mobilevitv2_equals_timm(size, output_stride, check_parity):
    name = "mobilevitv2_050"
    reference = timm.create_model(name, output_stride=output_stride)
    model = create_model(name, output_stride=output_stride, official_resize=True)
    check_parity(reference, model, size=size, scale=1.5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_mobilevit_equals_timm_without_dilation_in_its_blocks(output_stride, check_parity):
    """The official code dilates only the inverted residuals; timm the MobileViT blocks too."""
    name = "mobilevit_xxs"
    reference = timm.create_model(name, output_stride=output_stride)
    for stage in reference.stages[2:]:
        conv = stage[1].conv_kxk.conv
        conv.dilation = conv.padding = (1, 1)
    check_parity(reference, create_model(name, output_stride=output_stride), size=(72, 104), scale=1.5)


def test_which_convolutions_of_mobilevit_are_dilated():
    at_16, at_8 = (create_model("mobilevit_xxs", output_stride=stride) for stride in (16, 8))
    assert set(dilations(at_16)) == {1}
    assert [name for name, m in at_8.named_modules() if getattr(m, "dilation", 1) == (2, 2)] == [
        "stages.4.0.conv2_kxk.conv"
    ]


@pytest.mark.parametrize("size", [(12, 16), (11, 13)])
def test_dilated_convolutions_compute_the_same_values_at_more_places(size, randomise):
    strided, dilated = (
        nn.Sequential(Downsample(8, 12, stride=s), *(ConvEncoder(12, hidden=24, dilation=d) for _ in "ab"))
        for s, d in ((2, 1), (1, 2))
    )
    dilated.load_state_dict(randomise(strided).state_dict(), strict=True)
    x = torch.randn(2, 8, *size).double()
    with torch.no_grad():
        few, many = strided.double().eval()(x), dilated.double().eval()(x)
    assert many.shape[2:] == size
    torch.testing.assert_close(many[:, :, ::2, ::2], few, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "stage"), [("swiftformer_xs", "stages.3"), ("cas_vit_xs", "network.6")])
def test_every_depthwise_convolution_of_a_kept_level_is_dilated(name, stage):
    for output_stride, dilation in ((32, 1), (16, 2), (8, 4)):
        model = create_model(name, output_stride=output_stride)
        convs = [m for m in model.get_submodule(f"{stage}").modules() if isinstance(m, nn.Conv2d)]
        depthwise = [conv for conv in convs if conv.groups > 1]
        assert len(depthwise) > 2
        assert {conv.dilation for conv in depthwise} == {(dilation, dilation)}


def test_timm_builds_cas_vit_with_an_output_stride():
    model = timm.create_model("cas_vit_xs", features_only=True, output_stride=16)
    assert model.feature_info.reduction() == [4, 8, 16, 16]
    assert model(torch.rand(1, 3, 64, 64))[-1].shape[2:] == (4, 4)
