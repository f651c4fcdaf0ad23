from dataclasses import replace

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import mobilevit as timm_mobilevit
from timm.models.byobnet import ByobNet

from pocketvit.backbones import create_model, get_entry
from pocketvit.backbones.mobilevitv2 import MobileViTV2, MobileViTV2Spec

WIDTHS = ["050", "075", "100", "125", "150", "175", "200"]


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
    check_parity(timm.create_model(name), create_model(name), size=(64, 64))


@pytest.mark.parametrize("size", [(72, 104), (96, 64)])  # 72 / 8 = 9 and 104 / 8 = 13: the resize of odd maps
def test_equals_timm_on_odd_and_oblong_maps(size, check_parity):
    check_parity(timm.create_model("mobilevitv2_050"), create_model("mobilevitv2_050"), size=size)


@pytest.mark.parametrize("size", [(64, 96), (72, 72)])
def test_gradients_equal_timm(size, check_parity):
    check_parity(
        timm.create_model("mobilevitv2_050", num_classes=5),
        create_model("mobilevitv2_050", num_classes=5),
        size=size,
        gradients=True,
    )


@pytest.mark.parametrize(
    ("size", "first8", "total", "norm"),
    [
        (
            256,
            [0.47996784, 1.31253127, 0.35687741, 0.48332448, 0.27139933, -0.15955606, -0.9914561, 0.00239697],
            -17.884501,
            28.170511,
        ),
        (
            288,  # 288 / 32 = 9: odd
            [0.45968569, 1.34694541, 0.35813367, 0.49284248, 0.25303499, -0.17738192, -1.02511604, 0.0553859],
            -17.850152,
            28.998337,
        ),
    ],
)
def test_golden_logits(size, first8, total, norm, check_golden):
    model = create_model("mobilevitv2_050")
    check_golden(model, scale=1.0, size=size, first8=first8, total=total, norm=norm, argmax=169)


@pytest.mark.parametrize("width", [0.3, 0.6, 0.9, 1.1])
def test_other_widths_equal_timm(width, check_parity):
    spec = MobileViTV2Spec(width=width)
    check_parity(timm_of(spec), MobileViTV2(spec, num_classes=10))


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
