import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pocketvit.backbones import Preprocessing
from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData
from pocketvit.data.splits import MemorySplit
from pocketvit.data.transforms import Augmentation
from pocketvit.tasks import ClassificationTask
from pocketvit.training import Recipe, train

CLASSES = ("red", "green", "blue")


def coloured_split(n, *, seed):
    """`n` noisy 12×12 pictures, each brighter in the channel of its class."""
    rng = np.random.default_rng(seed)
    labels = [i % len(CLASSES) for i in range(n)]
    contents = []
    for label in labels:
        pixels = rng.integers(0, 160, (12, 12, 3))
        pixels[..., label] += 60
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
        contents.append(buffer.getvalue())
    return MemorySplit([f"{seed}-{i}" for i in range(n)], contents, labels)


class TinyNet(nn.Module):
    """Convolution, BatchNorm, dropout, linear: everything that has a state of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, len(CLASSES))

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


@pytest.fixture
def data():
    return ImageData(
        name="colours",
        source="memory",
        classes=CLASSES,
        train=coloured_split(54, seed=0),
        val=coloured_split(21, seed=1),
        split_rule="made so",
        problems=(),
        checked=75,
        fingerprint="f" * 64,
        typical_size=12,
    )


@pytest.fixture
def preprocessing():
    return Preprocessing(size=16, mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear", crop=1.0)


@pytest.fixture
def recipe():
    return Recipe(
        epochs=3,
        batch_size=8,
        lr=0.01,
        warmup_epochs=1,
        mixup=0.2,
        cutmix=1.0,
        ema_decay=0.9,
        augmentation=Augmentation(policy="none", erase=0.2),
        workers=0,
    )


@pytest.fixture
def make_net():
    def make():
        torch.manual_seed(7)
        return TinyNet()

    return make


@pytest.fixture
def train_in(data, preprocessing, recipe, make_net):
    """Train the tiny network in a folder; keyword arguments replace what differs."""

    random = PretrainedReport(used=False, source="", licence="", message="Random.")

    def run_training(path, *, model=None, recipe=recipe, resume=True, data=data, pretrained=random):
        path.mkdir(parents=True, exist_ok=True)
        return train(
            model or make_net(),
            data,
            preprocessing,
            recipe,
            RunDirectory(path),
            task=ClassificationTask(classes=CLASSES),
            device=torch.device("cpu"),
            resume=resume,
            model_name="mobilevit_xxs",
            pretrained=pretrained,
        )

    return run_training
