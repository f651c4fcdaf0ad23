"""Which images choose the integers, and how they come to the network."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from pocketvit.backbones import get_entry
from pocketvit.core.errors import DataError
from pocketvit.data.splits import ImageSplit
from pocketvit.pipeline import quantize as pipeline
from pocketvit.pipeline.quantize import calibration_images, simulate
from pocketvit.quantization import QuantizationSpec


class Noise(ImageSplit):
    """Images of noise, 300 by 340 pixels, no brighter than `brightest`."""

    def __init__(self, labels, *, brightest: int = 255):
        super().__init__(labels)
        self.brightest = brightest

    def key(self, i):
        return f"{i}.png"

    def content(self, i):
        pixels = np.random.default_rng(i).integers(0, self.brightest + 1, (340, 300, 3), dtype=np.uint8)
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        return encoded.getvalue()


def card_of(name: str):
    return SimpleNamespace(preprocessing=get_entry(name).preprocessing)


@pytest.mark.parametrize(
    "name",
    ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "efficientformer_l1", "efficientformerv2_s0"],
)
def test_t13_images_come_as_timm_gives_them_to_the_network(name):
    split = Noise([0, 1])
    found = calibration_images(split, card_of(name), n=2, seed=0)
    config = resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = create_transform(**config, is_training=False)
    wanted = torch.stack([transform(split.load(label)) for label in found.labels.tolist()])
    torch.testing.assert_close(found.images, wanted, rtol=0, atol=1e-6)


def test_t15_a_seed_draws_the_same_images_of_all_classes():
    split, card = Noise([i % 4 for i in range(40)]), card_of("mobilevit_xxs")
    first, again, other = (calibration_images(split, card, n=8, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.labels.bincount().tolist() == other.labels.bincount().tolist() == [2, 2, 2, 2]


def test_t15_training_images_choose_the_integers(monkeypatch):
    class EnoughError(Exception):
        """Nothing after this matters here."""

    def stop(_network, _spec, calibration):
        drawn.append(calibration)
        raise EnoughError

    drawn = []
    monkeypatch.setattr(pipeline, "prepare_for_quantization", lambda *_, **__: None)
    monkeypatch.setattr(pipeline, "quantize", stop)
    images = SimpleNamespace(train=Noise([0, 1] * 3, brightest=10), val=Noise([0, 1] * 3))
    subject = SimpleNamespace(network=None, card=card_of("mobilevit_xxs"))
    with pytest.raises(EnoughError):
        simulate(subject, images, QuantizationSpec(), calibration=4, diagnosis=False)
    (calibration,) = drawn
    assert len(calibration.images) == 4
    assert calibration.images.max() < 0.1, "no image of those held out"


@pytest.mark.parametrize(("labels", "n"), [([0, 1], 0), ([], 4), ([1, 1, 1], 2)])
def test_no_image_or_a_single_class_is_an_error(labels, n):
    with pytest.raises(DataError, match=r"no calibration images|one class"):
        calibration_images(Noise(labels), card_of("mobilevit_xxs"), n=n, seed=0)
