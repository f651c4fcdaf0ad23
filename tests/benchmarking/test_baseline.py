from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketvit.benchmarking import baseline, mobilenet_baseline
from pocketvit.deployment import ExportedClassifier


def test_the_baseline_is_written_once_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mobilenet_baseline(size=64, num_classes=7, folder=tmp_path)
    assert found.role == "baseline"
    assert found.resolution == 64
    assert found.params == 5_483_032 - 993 * (1280 + 1)  # timm's published count, with 7 of 1000 classes

    monkeypatch.setattr(baseline, "_export", pytest.fail)
    assert mobilenet_baseline(size=64, num_classes=7, folder=tmp_path) == found

    classifier = ExportedClassifier.load(found.path, threads=1)
    assert "random weights" in classifier.metadata["weights_licence"]
    assert classifier.logits(np.zeros((2, 3, 64, 64), np.float32)).shape == (2, 7)


def test_another_size_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def export(path: Path, *, size: int, num_classes: int) -> None:
        asked.append((size, num_classes))
        path.touch()
        raise NotADirectoryError

    monkeypatch.setattr(baseline, "_export", export)
    for size, classes in ((64, 7), (96, 7), (64, 8)):
        with pytest.raises(NotADirectoryError):
            mobilenet_baseline(size=size, num_classes=classes, folder=tmp_path)
    assert asked == [(64, 7), (96, 7), (64, 8)]
