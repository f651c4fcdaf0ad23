from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import mobilevit as timm_mobilevit
from timm.models.byobnet import ByobNet

from pocketvit.backbones import create_model, get_entry
from pocketvit.backbones.mobilevitv2 import MobileViTV2, MobileViTV2Block, MobileViTV2Spec
from pocketvit.mixers.patches import fold_channels, unfold_channels

WIDTHS = ["050", "075", "100", "125", "150", "175", "200"]

SCALE = 1.5  # of the weights: the features depend on the image


def timm_of(spec):
    """timm's blocks put together with the channels of `spec`."""
    cfg = timm_mobilevit._mobilevitv2_cfg(1.0)
    stages = [replace(block, c=width) for block, width in zip(cfg.blocks[:2], spec.widths[:2], strict=True)]
    for (residual, block), width, dim in zip(cfg.blocks[2:], spec.widths[2:], spec.dims, strict=True):
        attention = replace(block, c=width, block_kwargs={**block.block_kwargs, "transformer_dim": dim})
        stages.append((replace(residual, c=width), attention))
    return ByobNet(replace(cfg, blocks=tuple(stages), stem_chs=spec.stem), num_classes=10)


@pytest.mark.parametrize("width", WIDTHS)
def test_equals_timm(width, check_parity):
    name = f"mobilevitv2_{width}"
    check_parity(timm.create_model(name), create_model(name), size=(64, 64), scale=SCALE)


# 72 / 8 = 9 and 104 / 8 = 13: the resize of odd maps
@pytest.mark.parametrize(
    ("size", "official_resize"), [((64, 128), False), ((64, 128), True), ((72, 104), True), ((96, 64), True)]
)
def test_equals_timm_on_odd_and_oblong_maps(size, official_resize, check_parity):
    ours = create_model("mobilevitv2_050", official_resize=official_resize)
    check_parity(timm.create_model("mobilevitv2_050"), ours, size=size, scale=SCALE)


@pytest.mark.parametrize(
    ("size", "official_resize"), [((64, 128), False), ((64, 96), True), ((72, 72), True)]
)
def test_gradients_equal_timm(size, official_resize, check_parity):
    check_parity(
        timm.create_model("mobilevitv2_050", num_classes=5),
        create_model("mobilevitv2_050", num_classes=5, official_resize=official_resize),
        size=size,
        gradients=True,
        scale=SCALE,
    )


@pytest.mark.parametrize(
    ("size", "official_resize", "first8", "total", "norm"),
    [
        (
            256,
            False,
            [0.47996784, 1.31253127, 0.35687741, 0.48332448, 0.27139933, -0.15955606, -0.9914561, 0.00239697],
            -17.884501,
            28.170511,
        ),
        (
            288,  # 288 / 32 = 9: odd
            True,
            [0.45968569, 1.34694541, 0.35813367, 0.49284248, 0.25303499, -0.17738192, -1.02511604, 0.0553859],
            -17.850152,
            28.998337,
        ),
    ],
)
def test_golden_logits(size, official_resize, first8, total, norm, check_golden):
    model = create_model("mobilevitv2_050", official_resize=official_resize)
    check_golden(model, scale=1.0, size=size, first8=first8, total=total, norm=norm, argmax=169)


def test_default_and_official_resize_differ_only_where_a_map_is_odd(randomise):
    default = randomise(create_model("mobilevitv2_050", num_classes=4), scale=SCALE).eval()
    official = create_model("mobilevitv2_050", num_classes=4, official_resize=True).eval()
    official.load_state_dict(default.state_dict(), strict=True)
    for size, same in (((128, 64), True), ((64, 96), False)):
        images = torch.rand(1, 3, *size)
        with torch.no_grad():
            assert torch.equal(default(images), official(images)) == same
    with torch.no_grad():
        ours, theirs = (model.forward_features(torch.rand(1, 3, 224, 64)) for model in (default, official))
    assert (ours.shape[2:], theirs.shape[2:]) == ((7, 2), (8, 2))


def test_a_block_computes_on_a_map_what_it_computes_on_token_sets(randomise):
    block = randomise(MobileViTV2Block(16, dim=8, depth=2)).double().eval()
    layer = block.transformer[0]
    x = torch.randn(2, 8, 6, 10).double()
    with torch.no_grad():
        tokens = layer(unfold_channels(x, patch=2))
        expected = fold_channels(tokens, patch=2, size=(6, 10))
        torch.testing.assert_close(layer.forward_map(x), expected, rtol=1e-10, atol=1e-12)


def test_pixels_beyond_the_border_do_not_count(randomise):
    """On an odd map a layer equals itself on token lists that hold the real pixels only."""
    layer = randomise(MobileViTV2Block(16, dim=8, depth=1)).double().eval().transformer[0]
    x = torch.randn(1, 8, 5, 7).double()
    with torch.no_grad():
        out = layer.forward_map(x)
        normed = layer.norm1(x)
        mixed = torch.empty_like(x)
        for row in range(2):
            for column in range(2):
                tokens = normed[:, :, row::2, column::2]
                mixed[:, :, row::2, column::2] = layer.attn.forward_tokens(
                    tokens.flatten(2)[:, :, None]
                ).reshape(tokens.shape)
        expected = x + mixed
        expected = expected + layer.mlp(layer.norm2(expected))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("width", [0.3, 0.6, 0.9, 1.1])
def test_other_widths_equal_timm(width, check_parity):
    spec = MobileViTV2Spec(width=width)
    check_parity(timm_of(spec), MobileViTV2(spec, num_classes=10), scale=SCALE)


def test_channels_are_rounded_as_the_official_code_rounds():
    spec = MobileViTV2Spec(width=0.6)
    assert (spec.stem, spec.widths, spec.dims) == (24, (48, 80, 152, 232, 304), (80, 112, 152))
    assert MobileViTV2Spec(width=0.2).stem == 16
    assert MobileViTV2Spec(width=3.0).stem == 64


@settings(max_examples=8, deadline=None)
@given(percent=st.integers(min_value=10, max_value=250))
def test_any_width_builds_from_its_name_and_runs(percent):
    entry = get_entry(f"mobilevitv2_{percent:03d}")
    with torch.device("meta"):
        model = entry.build(10, 3)
        logits = model.eval()(torch.empty(2, 3, 64, 64))
    assert logits.shape == (2, 10)
    channels = [level["num_chs"] for level in model.feature_info]
    assert channels == sorted(channels)
    assert all(width % 8 == 0 for width in channels)
    assert channels[-1] == pytest.approx(5.12 * percent, rel=0.1, abs=4)


def test_collapsing_the_key_keeps_the_state_dict():
    ours, theirs = (
        create_model("mobilevitv2_050").state_dict(),
        timm.create_model("mobilevitv2_050").state_dict(),
    )
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
