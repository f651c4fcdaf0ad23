from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

from pocketvit.core.config import parse_config
from pocketvit.core.errors import ConfigError
from pocketvit.data.transforms import Augmentation, eval_transform, train_transform

POLICIES = [
    Augmentation(),
    Augmentation.gentle(),
    Augmentation.none(),
    Augmentation(policy="randaugment", magnitude=15, jitter=0.4, erase=1.0),
    Augmentation(policy="none", flip=False, crop_scale=(0.08, 1.0)),
]


def reference(image, pre):
    """The rule in numpy and Pillow alone."""
    short = int(pre.size / pre.crop)
    new = (
        (short, short)
        if pre.crop_mode == "squash"
        else tuple(int(short * side / min(image.size)) for side in image.size)
    )
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[pre.interpolation]
    resized = image.resize(new, resample)
    left, top = round((new[0] - pre.size) / 2), round((new[1] - pre.size) / 2)
    crop = np.asarray(resized)[top : top + pre.size, left : left + pre.size].astype(np.float64) / 255
    ordered = crop[..., ::-1] if pre.channels == "bgr" else crop
    return ((ordered - pre.mean) / pre.std).transpose(2, 0, 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(8, 40),
    crop=st.sampled_from([0.875, 0.9, 1.0]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    channels=st.sampled_from(["rgb", "bgr"]),
    crop_mode=st.sampled_from(["center", "squash"]),
)
def test_eval_transform_is_its_rule(
    picture, pre, width, height, size, crop, interpolation, channels, crop_mode
):
    if crop_mode == "center" and max(width, height) > 16 * min(width, height):
        return
    rules = {"crop": crop, "interpolation": interpolation, "channels": channels, "crop_mode": crop_mode}
    pre = replace(pre, size=size, **rules)
    image = picture(width, (width, height))
    found = eval_transform(pre)(image)
    assert found.shape == (3, size, size)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    assert np.abs(found.numpy() - reference(image, pre)).max() < 1e-5


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [0.8, 0.95, 1.0])
def test_eval_transform_is_timms(picture, pre, crop, crop_mode):
    pre = replace(pre, size=64, crop=crop, crop_mode=crop_mode)
    theirs = transforms_imagenet_eval(
        *(64, crop, crop_mode),
        interpolation="bicubic",
        mean=pre.mean,
        std=pre.std,
        use_prefetcher=False,
    )
    for seed, size in enumerate([(100, 80), (70, 200), (30, 30)]):
        image = picture(seed, size)
        assert torch.allclose(eval_transform(pre)(image), theirs(image), atol=1e-5)


def test_a_long_strip_is_cut_before_it_is_enlarged(pre):
    strip = Image.new("RGB", (50_001, 2))
    strip.paste((255, 0, 0), (24_990, 0, 25_010, 2))
    for transform in (eval_transform(pre), train_transform(pre, Augmentation.none())):
        assert transform.prepare(strip).shape[2] <= 24 * 20
    assert eval_transform(pre).prepare(strip)[0].float().mean() > 200


def test_squashing_shows_a_long_strip_whole_and_the_same_in_training(pre):
    pre = replace(pre, crop=1.0, crop_mode="squash")
    strip = Image.new("RGB", (2_400, 24))
    strip.paste((255, 0, 0), (0, 0, 100, 24))  # the first 24th
    red = eval_transform(pre).prepare(strip)[0]
    assert (red[:, 0] > 128).all()
    assert (red[:, 2:] < 64).all()
    halves = Image.new("RGB", (96, 24))
    halves.paste((255, 0, 0), (0, 0, 12, 24))
    torch.manual_seed(0)
    shifted = train_transform(pre, Augmentation.gentle())(halves)
    expected = eval_transform(pre)(halves)
    assert (shifted.amax(dim=(1, 2)) - expected.amax(dim=(1, 2))).abs().max() < 0.1  # the end is in sight


def test_halves_make_the_whole(picture, pre):
    image = picture(1, (100, 70))
    for transform in [eval_transform(pre), *(train_transform(pre, a) for a in POLICIES)]:
        pixels = transform.prepare(image)
        kept = pixels.clone()
        torch.manual_seed(5)
        first = transform(image)
        torch.manual_seed(5)
        assert torch.equal(first, transform.finish(pixels))
        assert torch.equal(pixels, kept)


def test_eval_finish_takes_batches(picture, pre):
    transform = eval_transform(pre)
    pixels = torch.stack([transform.prepare(picture(i)) for i in range(3)])
    assert torch.equal(transform.finish(pixels)[2], transform(picture(2)))


@pytest.mark.parametrize("augmentation", POLICIES)
@pytest.mark.parametrize("size", [(100, 70), (8, 8), (1, 1), (3, 300)])
def test_train_transform_gives_inputs_of_any_image(picture, pre, augmentation, size):
    transform = train_transform(pre, augmentation)
    image = picture(0, size)
    for seed in range(5):
        torch.manual_seed(seed)
        found = transform(image)
        assert found.shape == (3, 24, 24)
        assert found.dtype == torch.float32
        assert torch.isfinite(found).all()


@pytest.mark.parametrize("augmentation", POLICIES)
def test_train_transform_depends_on_torchs_seed_alone(picture, pre, augmentation):
    transform, copy = train_transform(pre, augmentation), None
    copy = pickle.loads(pickle.dumps(transform))
    image = picture(0, (60, 50))
    found = []
    for chosen, seed in ((transform, 1), (copy, 1), (transform, 2)):
        torch.manual_seed(seed)
        found.append(torch.stack([chosen(image) for _ in range(4)]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_prepare_shrinks_and_never_enlarges(picture, pre):
    transform = train_transform(pre, Augmentation(working_size=1.5))
    assert transform.at_least == 36
    assert transform.prepare(picture(0, (200, 100))).shape == (3, 36, 72)
    assert transform.prepare(picture(0, (20, 30))).shape == (3, 30, 20)


def test_no_flip_means_no_flip(pre):
    image = Image.new("RGB", (48, 48))
    image.paste((255, 255, 255), (0, 0, 24, 48))  # the left half is white
    for augmentation, mirrored in (
        (Augmentation.gentle(), False),
        (Augmentation(policy="none", flip=False, erase=0), False),
        (Augmentation(policy="none", erase=0, crop_scale=(0.8, 1.0)), True),
    ):
        transform = train_transform(pre, augmentation)
        torch.manual_seed(0)
        white_right = [
            bool(x[0, :, 20:].mean() > x[0, :, :4].mean()) for x in (transform(image) for _ in range(40))
        ]
        assert any(white_right) == mirrored


def test_without_variation_training_sees_what_evaluation_sees(picture, pre):
    pre = replace(pre, crop=1.0)
    transform = train_transform(pre, Augmentation.none().model_copy(update={"flip": False}))
    image = picture(0, (24, 24))
    assert torch.allclose(transform(image), eval_transform(pre)(image), atol=1e-6)


def test_shift_fills_with_the_border(pre):
    image = Image.new("RGB", (8, 8), (10, 200, 30))
    torch.manual_seed(0)
    transform = train_transform(pre, Augmentation.gentle())
    expected = eval_transform(pre)(image)
    for _ in range(20):
        assert torch.allclose(transform(image), expected, atol=0.02)


def test_erased_parts_are_the_mean_colour(picture, pre):
    torch.manual_seed(0)
    found = train_transform(pre, Augmentation(policy="none", erase=1.0))(picture(0))
    assert (found == 0).all(dim=0).float().mean() > 0.01


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="Did you mean flip"):
        parse_config(Augmentation, {"flipp": True}, where="recipe.yaml")
    with pytest.raises(ConfigError, match="erase"):
        parse_config(Augmentation, {"erase": 2}, where="recipe.yaml")
    assert parse_config(Augmentation, Augmentation.gentle().model_dump(), where="x") == Augmentation.gentle()


def test_pipelines_can_be_printed(pre):
    assert eval_transform(pre).describe() == pre.describe()
    normalise = "scale to [0, 1] | normalise mean 0.485 0.456 0.406 std 0.229 0.224 0.225"
    assert train_transform(pre, Augmentation()).describe() == (
        "decode rgb | shrink short side to 36 | random resized crop 24 of 0.35 to 1 of the area bicubic | "
        f"flip 0.5 | TrivialAugment | {normalise} | erase 0.1"
    )
    squashed = train_transform(replace(pre, crop_mode="squash"), Augmentation.gentle()).describe()
    assert "squash to 24×24 bicubic | random shift" in squashed
    assert train_transform(pre, Augmentation.gentle()).describe() == (
        "decode rgb | shrink short side to 36 | resize short side 24 bicubic | "
        f"random shift, turn and scale | {normalise}"
    )
