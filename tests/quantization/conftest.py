"""A network of a few layers with one operator of every kind, and images to calibrate it with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pocketvit.quantization import Calibration, QuantizedNetwork, capture


class Attention(nn.Module):
    """Softmax attention with a residual, by matrix products."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        weights = (query @ key.transpose(-2, -1)).softmax(dim=-1)
        return x + self.proj(weights @ value)


class Tiny(nn.Module):
    """Convolution, SiLU, depthwise convolution, gate, attention, pooling, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.SiLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.attention = Attention(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x = torch.relu(self.depthwise(x)) * torch.sigmoid(self.gate(x))
        tokens = self.attention(x.flatten(2).transpose(1, 2))
        return self.head(tokens.mean(dim=1))


@pytest.fixture(scope="session")
def tiny_model() -> nn.Module:
    torch.manual_seed(0)
    model = Tiny().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@pytest.fixture(scope="session")
def _captured_once(tiny_model) -> QuantizedNetwork:
    return capture(tiny_model, size=16)


@pytest.fixture
def tiny(_captured_once) -> QuantizedNetwork:
    return copy.deepcopy(_captured_once)


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return Calibration(images, torch.arange(8) % 5)
