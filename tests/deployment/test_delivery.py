from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from pocketvit.core.errors import ConfigError, VerificationError
from pocketvit.core.files import sha256_of
from pocketvit.data import ImageSplit
from pocketvit.deployment import ExportedClassifier, deploy
from pocketvit.tasks import ModelCard


def test_export_json(network: nn.Module, card: ModelCard, images: ImageSplit, tmp_path: Path) -> None:
    content = deploy(network, tmp_path, card=card, images=images)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    path = tmp_path / "model.onnx"
    assert content["file"] == "model.onnx"
    assert content["sha256"] == sha256_of(path)
    assert content["bytes"] == path.stat().st_size
    (fold,) = content["rewrites"]
    assert (fold["name"], fold["places"], fold["params_saved"]) == ("fold_norm_after", 1, 2 * 8 - 8)
    cost = content["cost_before_rewrites"]
    assert cost["params"] == sum(parameter.numel() for parameter in network.parameters())
    assert cost["activations"] > fold["activations_saved"] > 0
    assert content["metadata"]["classes"] == list(card.classes)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    check = content["verification"]
    assert check["passed"]
    assert check["n"] == len(images)
    assert check["batches"] == [1, 8, 16]
    assert ExportedClassifier.load(path).card == card


def test_images_are_taken_across_the_split(network, card, images, tmp_path) -> None:
    loaded: list[int] = []

    class Many(ImageSplit):
        def key(self, i: int) -> str:
            return str(i)

        def content(self, i: int) -> bytes:
            loaded.append(i)
            return images.content(i % len(images))

    content = deploy(network, tmp_path, card=card, images=Many([0] * 600))
    assert content["verification"]["n"] == len(loaded) == 200
    assert loaded == list(range(0, 600, 3))


def test_unfaithful_file_is_not_announced(
    network: nn.Module, card: ModelCard, images: ImageSplit, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"verified earlier")
    with pytest.raises(VerificationError, match=r"model\.unverified\.onnx"):
        deploy(network, tmp_path, card=card, images=images, tolerance=1e-12)
    assert (tmp_path / "model.onnx").read_bytes() == b"verified earlier"
    assert (tmp_path / "model.unverified.onnx").is_file()


def test_impossible_target_is_refused_first(network, card, images, tmp_path) -> None:
    with pytest.raises(ConfigError):
        deploy(network, tmp_path, card=replace(card, name="x"), images=images, precision="int4")
    assert not list(tmp_path.iterdir())
