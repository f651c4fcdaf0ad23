"""What torch traces against what ONNX Runtime computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from pocketvit.quantization.qdq import TRANSLATIONS, dequantize, round_to_grid

SCALE, ZERO = torch.tensor(0.25), torch.tensor(100, dtype=torch.uint8)


class Both(nn.Module):
    """Rounded numbers times weights that are stored as integers, one scale for each row or one for all."""

    def __init__(self, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([[3, -5], [127, -128]], dtype=torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros_like(scales, dtype=torch.int8))
        self.register_buffer("scale", SCALE)
        self.register_buffer("zero", ZERO)

    def forward(self, x: Tensor) -> Tensor:
        axis = 0 if self.scales.dim() else None
        return round_to_grid(x, self.scale, self.zero) @ dequantize(
            self.weight, self.scales, self.zeros, axis
        )


@pytest.mark.parametrize("scales", [torch.tensor([0.5, 2.0]), torch.tensor(0.5)])
def test_the_runtime_rounds_and_scales(scales: Tensor, tmp_path: Path) -> None:
    model, images = Both(scales).eval(), torch.linspace(-40, 60, 202).reshape(101, 2)
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model,
        (torch.zeros(2, 2),),
        path,
        dynamo=True,
        dynamic_shapes=({0: "rows"},),
        custom_translation_table=dict(TRANSLATIONS),
        verbose=False,
    )
    options = ort.SessionOptions()  # integer kernels of processors without VNNI clip what this test sums
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    rounded = ((images.double() / 0.25).round() + 100).clamp(0, 255).sub(100) * 0.25
    weight = model.weight.double() * (scales.double()[:, None] if scales.dim() else scales.double())
    np.testing.assert_allclose(found, (rounded @ weight).numpy(), rtol=1e-6)


def test_nothing_is_computed_in_torch() -> None:
    # An operator of files only: torch has its shape, for tracing, and no kernel.
    with pytest.raises(NotImplementedError, match="pocketvit::round_to_grid"):
        round_to_grid(torch.zeros(2), SCALE, ZERO)
