"""A tiny exported file."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from pocketvit.backbones import Preprocessing
from pocketvit.deployment import export_onnx
from pocketvit.tasks import ModelCard


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    card = ModelCard(
        name="tiny",
        classes=("no", "yes"),
        preprocessing=Preprocessing(
            size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear", crop=1.0
        ),
        code_licence="Apache-2.0",
        weights_licence="none",
        source="a test",
    )
    return export_onnx(network, tmp_path_factory.mktemp("tiny") / "tiny.onnx", card=card).path
