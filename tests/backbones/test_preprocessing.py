import json
from dataclasses import replace

import pytest

from pocketvit.backbones import Preprocessing

PREPROCESSING = Preprocessing(
    size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic", crop=0.875
)


def test_describe_is_the_pipeline_in_one_line():
    assert PREPROCESSING.describe() == (
        "decode rgb | resize short side 73 bicubic | centre crop 64 | scale to [0, 1] | "
        "normalise mean 0.485 0.456 0.406 std 0.229 0.224 0.225"
    )


def test_describe_says_when_images_are_squashed():
    squashed = replace(PREPROCESSING, crop_mode="squash", crop=1.0)
    assert squashed.describe().startswith("decode rgb | squash to 64×64 bicubic | centre crop 64 | scale to")


def test_what_was_written_before_there_were_crop_modes_is_centred():
    before = {
        "size": 64,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "interpolation": "bicubic",
        "crop": 0.875,
        "channels": "rgb",
    }
    assert Preprocessing.from_dict(before) == PREPROCESSING
    assert PREPROCESSING.to_dict() == before  # so that runs of before can be resumed


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_survives_json(crop_mode):
    rules = replace(PREPROCESSING, crop_mode=crop_mode)
    assert Preprocessing.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules


def test_at_changes_only_the_size():
    other = PREPROCESSING.at(224)
    assert (other.size, other.short_side) == (224, 256)
    assert other.at(64) == PREPROCESSING
