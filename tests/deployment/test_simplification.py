"""Our passes against onnxscript's own optimizer, from which one rule is left out."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from pocketvit.deployment.simplification import simplify

LARGEST = 2**31 - 1


class Wordy(nn.Module):
    """Says in many operators what takes few: constants of weights, reshapes in a row, a norm to be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x * 1 + 0)).clamp(min=0).clamp(max=6)
        x = x.transpose(1, 2).transpose(1, 2).reshape(len(x), 4, 2, -1).reshape(len(x), 8, -1)
        first, second = x.chunk(2, dim=-1)
        return nn.functional.linear((first + second).mean(-1), self.head.weight[:4] * 2)


@pytest.fixture(scope="module")
def written() -> ir.Model:
    """As the exporter writes it."""
    torch.manual_seed(0)
    shapes = ({0: "batch"},)
    program = torch.onnx.export(
        Wordy().eval(),
        (torch.zeros(2, 3, 10, 10),),
        dynamo=True,
        optimize=False,
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    return program.model


def test_equals_the_optimizer_it_is_made_from(written: ir.Model) -> None:
    ours, theirs = (ir.from_proto(ir.to_proto(written)) for _ in range(2))
    simplify(ours)
    optimizer.optimize_ir(theirs, input_size_limit=LARGEST, output_size_limit=LARGEST)
    assert ir.to_proto(ours).SerializeToString(deterministic=True) == ir.to_proto(theirs).SerializeToString(
        deterministic=True
    )
    assert len(ours.graph) < len(written.graph)
    assert {"BatchNormalization", "Mul"}.isdisjoint(node.op_type for node in ours.graph)
