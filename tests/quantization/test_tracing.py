"""Graphs are for any number of images; what cannot be traced into one is refused in words."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pocketvit.core.errors import ExportError
from pocketvit.quantization import capture
from pocketvit.quantization.tracing import trace


def test_the_graph_computes_the_network_for_any_number_of_images(tiny_model: nn.Module) -> None:
    graph = trace(tiny_model, size=16, in_chans=3)
    for images in (torch.randn(1, 3, 16, 16), torch.randn(5, 3, 16, 16)):
        with torch.no_grad():
            torch.testing.assert_close(graph(images), tiny_model(images))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    with pytest.raises(ExportError, match="Branching cannot be traced"):
        capture(Branching(), size=8)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) + self.token.expand(len(x), -1)


def test_a_network_for_a_fixed_number_of_images_is_refused() -> None:
    with pytest.raises(ExportError, match="Counting turns the number of images") as found:
        capture(Counting(), size=8)
    assert "x.shape[0]" in str(found.value)
