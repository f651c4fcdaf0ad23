import json

from pocketvit.backbones import Preprocessing

PREPROCESSING = Preprocessing(
    size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic", crop=0.875
)


def test_describe_is_the_pipeline_in_one_line():
    assert PREPROCESSING.describe() == (
        "decode rgb | resize short side 73 bicubic | centre crop 64 | scale to [0, 1] | "
        "normalise mean 0.485 0.456 0.406 std 0.229 0.224 0.225"
    )


def test_survives_json():
    assert Preprocessing.from_dict(json.loads(json.dumps(PREPROCESSING.to_dict()))) == PREPROCESSING


def test_at_changes_only_the_size():
    other = PREPROCESSING.at(224)
    assert (other.size, other.short_side) == (224, 256)
    assert other.at(64) == PREPROCESSING
