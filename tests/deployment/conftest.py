"""A network small enough to export in a second, its card, its images."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pocketvit.backbones import Preprocessing
from pocketvit.data import ImageSplit
from pocketvit.data.splits import MemorySplit
from pocketvit.deployment import OnnxFile, export_onnx
from pocketvit.deployment.integer import export_integer
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import Calibration, QuantizationSpec, QuantizedNetwork, quantize
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


BLOCK_SIZE = 16


class Block(nn.Module):
    """Every operator that has an integer kernel, in few layers: more would multiply rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mix = nn.Parameter(torch.randn(8, 8) / 3)
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = x + self.depthwise(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, 8)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2)
        tokens = torch.softmax(scores / 8, dim=-1) @ tokens
        mixed = self.mix @ tokens.transpose(1, 2)  # (B, 8, N)
        return self.head((mixed * torch.sigmoid(mixed)).mean(-1))


@pytest.fixture(scope="session")
def block() -> nn.Module:
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture(scope="session")
def captured(block: nn.Module) -> QuantizedNetwork:
    return prepare_for_quantization(block, size=BLOCK_SIZE)


@pytest.fixture(scope="session")
def small_images() -> Tensor:
    return torch.randn(16, 3, BLOCK_SIZE, BLOCK_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def small_card(card: ModelCard) -> ModelCard:
    return replace(card, preprocessing=replace(card.preprocessing, size=BLOCK_SIZE))


@pytest.fixture(scope="session")
def calibrated(captured: QuantizedNetwork, small_images: Tensor) -> Callable[..., QuantizedNetwork]:
    """Quantizes the block by minimum and maximum, with what a test asks for."""

    def calibrate(**settings) -> QuantizedNetwork:
        spec = QuantizationSpec(**{"method": "minmax", "runtime": "onnxruntime", **settings})
        return quantize(captured, spec, Calibration(small_images))

    return calibrate


@pytest.fixture(scope="session")
def integer_file(calibrated, small_card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("integer") / "model.onnx"
    return export_integer(calibrated(), path, card=small_card)
