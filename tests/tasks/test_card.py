from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.backbones import BuildOptions, Preprocessing
from pocketvit.core.errors import CheckpointError
from pocketvit.tasks import ModelCard
from pocketvit.tasks.card import readable

SIZES = {"size": 64, "interpolation": "bicubic", "crop": 0.9}
NUMBERS = st.tuples(*[st.floats(0.01, 1, allow_nan=False)] * 3)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        name="tiny",
        classes=("cat", "dog"),
        preprocessing=Preprocessing(**SIZES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)),
        code_licence="Apache-2.0",
        weights_licence="CC0-1.0",
        source="a test",
        training_data="ab12",
        accuracy=0.875,
    )


@settings(max_examples=25)
@given(
    classes=st.lists(st.text(min_size=1), min_size=1, unique=True),
    mean=NUMBERS,
    std=NUMBERS,
    size=st.integers(32, 512),
    crop=st.floats(0.5, 1),
    channels=st.sampled_from(["rgb", "bgr"]),
    accuracy=st.none() | st.integers(0, 10_000).map(lambda n: n / 10_000),
    options=st.builds(
        BuildOptions, output_stride=st.sampled_from([8, 16, 32]), official_resize=st.booleans()
    ),
)
def test_round_trip(classes, mean, std, size, crop, channels, accuracy, options) -> None:
    preprocessing = Preprocessing(
        size=size, mean=mean, std=std, interpolation="bilinear", crop=crop, channels=channels
    )
    card = ModelCard(
        name="tiny",
        classes=tuple(classes),
        preprocessing=preprocessing,
        code_licence="Apache-2.0",
        weights_licence="none",
        source="a test",
        accuracy=accuracy,
        options=options,
    )
    metadata = card.to_metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["pipeline"] == preprocessing.describe()
    assert channels in metadata["input"]
    assert ModelCard.from_metadata(metadata, where="x.onnx") == card
    assert ModelCard.from_dict(json.loads(json.dumps(card.to_dict())), where="x.json") == card


def test_unmeasured_facts_are_left_out(card: ModelCard) -> None:
    metadata = replace(card, training_data="", accuracy=None).to_metadata()
    assert "training_data" not in metadata
    assert "accuracy" not in metadata


@pytest.mark.parametrize("damage", [{"classes": "not JSON"}, {"preprocessing": "{}"}, {"accuracy": "high"}])
def test_damaged_metadata_is_refused(card: ModelCard, damage: dict[str, str]) -> None:
    with pytest.raises(CheckpointError, match=r"x\.onnx was not written by pocketvit"):
        ModelCard.from_metadata(card.to_metadata() | damage, where="x.onnx")


def test_cards_from_before_there_were_options_are_read(card: ModelCard) -> None:
    assert "options" not in card.to_dict()
    assert "options" not in card.to_metadata()
    assert ModelCard.from_dict(card.to_dict(), where="x.json").options == BuildOptions()


@pytest.mark.parametrize(
    "options", [{"no_such_option": True}, {"output_stride": 64}, {"output_stride": "16"}]
)
def test_options_of_another_version_are_refused(card: ModelCard, options: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=r"x\.json .* cannot build") as error:
        ModelCard.from_dict(card.to_dict() | {"options": options}, where="x.json")
    assert "Upgrade" in error.value.fix


@pytest.mark.parametrize("options", [[], "official_resize", 3])
def test_options_that_are_none_are_damage(card: ModelCard, options: object) -> None:
    with pytest.raises(CheckpointError, match="was not written by pocketvit"):
        ModelCard.from_dict(card.to_dict() | {"options": options}, where="x.json")


def test_foreign_metadata_is_refused() -> None:
    with pytest.raises(CheckpointError, match="pocketvit export"):
        ModelCard.from_metadata({"author": "someone"}, where="x.onnx")


def test_readable_parses_the_json(card: ModelCard) -> None:
    values = readable(card.to_metadata())
    assert values["classes"] == list(card.classes)
    assert values["preprocessing"]["size"] == card.preprocessing.size
    assert values["model"] == "tiny"


def test_the_precision_is_in_a_file_where_it_is_not_float32(card) -> None:
    assert "precision" not in card.to_metadata()
    mixed = replace(card, precision="mixed")
    assert mixed.to_metadata()["precision"] == "mixed"
    assert ModelCard.from_metadata(mixed.to_metadata(), where="here") == mixed
