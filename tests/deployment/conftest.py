"""A network small enough to export in a second, its card, its images."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.backbones import Preprocessing
from pocketvit.data import ImageSplit
from pocketvit.data.splits import MemorySplit
from pocketvit.deployment import OnnxFile, export_onnx
from pocketvit.tasks import ModelCard

SIZE = 32
CLASSES = ("Katze", "Hund", "鳥")


@pytest.fixture(scope="session")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, len(CLASSES)),
    )
    layers.train()(torch.randn(16, 3, SIZE, SIZE))  # batch statistics that are not the initial 0 and 1
    return layers


@pytest.fixture(scope="session")
def card() -> ModelCard:
    return ModelCard(
        name="tiny",
        classes=CLASSES,
        preprocessing=Preprocessing(
            size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25), interpolation="bicubic", crop=0.9
        ),
        code_licence="Apache-2.0",
        weights_licence="CC0-1.0",
        source="a test",
        training_data="ab12",
        accuracy=0.875,
    )


@pytest.fixture(scope="session")
def exported(network: nn.Module, card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    return export_onnx(network, tmp_path_factory.mktemp("export") / "model.onnx", card=card)


@pytest.fixture(scope="session")
def images() -> ImageSplit:
    contents: list[bytes] = []
    for i in range(40):
        buffer = io.BytesIO()
        Image.effect_noise((40 + i, 60), 80).convert("RGB").save(buffer, "PNG")
        contents.append(buffer.getvalue())
    return MemorySplit([f"{i}.png" for i in range(40)], contents, [i % len(CLASSES) for i in range(40)])
