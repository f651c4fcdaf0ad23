"""The MobileNet every result stands beside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pocketvit.backbones import create_model, get_entry
from pocketvit.benchmarking.comparison import Contestant
from pocketvit.core.machine import versions
from pocketvit.deployment.onnx import export_onnx
from pocketvit.tasks.card import ModelCard

__all__ = ["BASELINE", "mobilenet_baseline"]

BASELINE = "mobilenetv3_large_100"
"""timm's MobileNetV3-Large 1.0 (Howard et al. 2019)."""


def mobilenet_baseline(*, size: int, num_classes: int, folder: Path) -> Contestant:
    """MobileNetV3 at the same input size and number of classes, through the same exporter.

    Its weights are random: it tells speed, memory and size, not accuracy. The file in `folder` is used again
    by later calls with the same size, classes and library versions.

    Raises:
        ExportError: the network cannot be written.
        StorageError: the disk is full or not writable.
    """
    digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"{BASELINE}-{size}px-{num_classes}classes-{digest}.onnx"
    if not path.exists():
        _export(path, size=size, num_classes=num_classes)
    return Contestant.of_file(path, role="baseline")


def _export(path: Path, *, size: int, num_classes: int) -> None:
    entry = get_entry(BASELINE)
    card = ModelCard(
        name=BASELINE,
        classes=tuple(f"class {i}" for i in range(num_classes)),
        preprocessing=entry.preprocessing.at(size),
        code_licence=entry.code_licence,
        weights_licence="none: random weights, for measuring speed only",
        source=entry.source,
    )
    export_onnx(create_model(BASELINE, num_classes=num_classes), path, card=card)
