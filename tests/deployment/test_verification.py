from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from pocketvit.core.errors import VerificationError
from pocketvit.deployment import ExportedClassifier, OnnxFile, verify
from pocketvit.deployment.onnx import frozen_copy
from pocketvit.deployment.verification import compare

Batches = list[tuple[Tensor, Tensor, Tensor]]


@pytest.fixture(scope="module")
def batches(network: nn.Module) -> Batches:
    torch.manual_seed(1)
    images = torch.randn(20, 3, 32, 32)
    with torch.no_grad():
        labels = frozen_copy(network)(images).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3  # five mistakes: 75 % accuracy
    return [(images[i : i + 8], labels[i : i + 8], torch.arange(8)) for i in range(0, 20, 8)]


def corrupt(source: Path, target: Path, change: float) -> None:
    """Add `change` to one weight of the file."""
    graph = onnx.load(source)
    kernel = next(tensor for tensor in graph.graph.initializer if len(tensor.dims) == 4)
    weights = numpy_helper.to_array(kernel).copy()
    weights.flat[5] += change
    kernel.CopyFrom(numpy_helper.from_array(weights, kernel.name))
    onnx.save(graph, target)


def test_faithful_file_passes(network: nn.Module, exported: OnnxFile, batches: Batches) -> None:
    result = verify(network, exported.path, iter(batches))
    assert result.passed
    assert result.n == 20
    assert result.batches == (1, 4, 8)
    assert result.mean_abs_diff <= result.max_abs_diff <= result.tolerance
    assert result.top1_agreement == 1
    assert result.accuracy_torch == result.accuracy_exported == 0.75


def test_the_tolerance_scales_with_the_logits(
    network: nn.Module, exported: OnnxFile, batches: Batches
) -> None:
    largest = max(frozen_copy(network)(images).abs().max().item() for images, *_ in batches)
    result = verify(network, exported.path, batches, tolerance=1e-3)
    assert result.tolerance == pytest.approx(1e-3 * largest)


def test_one_wrong_weight_is_refused(network, exported, batches, tmp_path) -> None:
    path = tmp_path / "wrong.onnx"
    corrupt(exported.path, path, 0.05)
    with pytest.raises(VerificationError, match=r"wrong\.onnx does not compute what the network computes"):
        verify(network, path, batches)


def test_not_a_number_is_refused(network, exported, batches, tmp_path) -> None:
    path = tmp_path / "nan.onnx"
    corrupt(exported.path, path, np.nan)
    with pytest.raises(VerificationError, match="differ by up to nan"):
        verify(network, path, batches)


def test_disagreement_is_refused_even_within_a_wide_tolerance(network, exported, batches, tmp_path) -> None:
    path = tmp_path / "wrong.onnx"
    corrupt(exported.path, path, 100.0)
    with pytest.raises(VerificationError, match="same class"):
        verify(network, path, batches, tolerance=1e9)
    result = compare(frozen_copy(network), ExportedClassifier.load(path), batches, tolerance=1e9)
    assert result.top1_agreement < result.min_agreement
    assert result.accuracy_exported != result.accuracy_torch


def test_batch_one_is_really_compared(network, exported, batches) -> None:
    """A file that is only wrong one image at a time is wrong."""
    classifier = ExportedClassifier.load(exported.path)

    class WrongAlone(ExportedClassifier):
        def __init__(self) -> None:
            self.card = classifier.card

        def __call__(self, images: Tensor) -> Tensor:
            return classifier(images) + (len(images) == 1)

    result = compare(frozen_copy(network), WrongAlone(), batches)
    assert not result.passed
    assert result.max_abs_diff == pytest.approx(1, abs=1e-3)


def test_no_images_is_refused(network: nn.Module, exported: OnnxFile) -> None:
    with pytest.raises(VerificationError, match="no images"):
        verify(network, exported.path, [])
