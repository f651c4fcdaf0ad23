from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pocketvit.core.errors import CheckpointError, DataError
from pocketvit.data import ImageSplit
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment import ExportedClassifier, OnnxFile
from pocketvit.deployment.onnx import frozen_copy
from pocketvit.tasks import ModelCard


@pytest.fixture
def classifier(exported: OnnxFile) -> ExportedClassifier:
    return ExportedClassifier.load(exported.path, threads=1)


def test_the_card_travels_with_the_file(classifier: ExportedClassifier, card: ModelCard) -> None:
    assert classifier.card == card
    assert classifier.metadata["pocketvit_version"]


def test_predicts_what_the_network_predicts(
    classifier: ExportedClassifier, network: nn.Module, card: ModelCard, images: ImageSplit
) -> None:
    pictures = [images.load(i) for i in range(5)]
    prepare = eval_transform(card.preprocessing)
    with torch.inference_mode():
        expected = frozen_copy(network)(torch.stack([prepare(picture) for picture in pictures])).softmax(1)
    results = classifier.predict(pictures)
    for result, probabilities in zip(results, expected, strict=True):
        torch.testing.assert_close(result.probabilities, probabilities, rtol=0, atol=1e-6)
        assert result.top(1)[0][0] == card.classes[probabilities.argmax()]


def test_no_images_no_results(classifier: ExportedClassifier) -> None:
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    "batch",
    [np.zeros((3, 32, 32), np.float32), np.zeros((1, 3, 31, 32), np.float32), np.zeros((1, 3, 32, 32))],
)
def test_wrong_input_is_refused(classifier: ExportedClassifier, batch: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"\(batch, 3, 32, 32\)"):
        classifier.logits(batch)


def test_foreign_file_is_refused(exported: OnnxFile, tmp_path: Path) -> None:
    graph = onnx.load(exported.path)
    graph.ClearField("metadata_props")
    path = tmp_path / "foreign.onnx"
    onnx.save(graph, path)
    with pytest.raises(CheckpointError, match=r"foreign\.onnx was not written by pocketvit"):
        ExportedClassifier.load(path)
