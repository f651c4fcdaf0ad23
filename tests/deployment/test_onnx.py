from __future__ import annotations

import copy
import errno
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from pocketvit.core.errors import ExportError, StorageError
from pocketvit.deployment import ExportedClassifier, OnnxFile, export_onnx
from pocketvit.deployment.onnx import frozen_copy
from pocketvit.tasks import ModelCard


def test_what_is_in_the_file(exported: OnnxFile, card: ModelCard) -> None:
    graph = onnx.load(exported.path)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.input] == ["image"]
    assert [value.name for value in graph.graph.output] == ["logits"]
    batch, *shape = graph.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [side.dim_value for side in shape] == [3, card.preprocessing.size, card.preprocessing.size]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)
    assert {entry.key: entry.value for entry in graph.metadata_props} == exported.metadata
    assert exported.metadata["params"] == str(3 * 8 * 9 + 16 + 8 * 16 * 9 + 16 + 16 * 3 + 3)
    assert exported.metadata["macs"] == str(16 * 16 * 3 * 8 * 9 + 8 * 8 * 8 * 16 * 9 + 16 * 3)


def test_what_is_said_of_the_file(exported: OnnxFile) -> None:
    content = exported.path.read_bytes()
    assert exported.sha256 == hashlib.sha256(content).hexdigest()
    assert exported.bytes == len(content)
    assert exported.nodes == len(onnx.load_from_string(content).graph.node)
    assert exported.opset == onnx.load_from_string(content).opset_import[0].version


def test_the_file_alone_is_enough(exported: OnnxFile) -> None:
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]


def test_batch_normalisation_is_folded(exported: OnnxFile) -> None:
    operators = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 2


def test_no_folder_of_this_machine_is_in_the_file(exported: OnnxFile) -> None:
    assert b".py" not in exported.path.read_bytes()


def test_same_network_same_bytes(
    network: nn.Module, card: ModelCard, exported: OnnxFile, tmp_path: Path
) -> None:
    assert export_onnx(network, tmp_path / "again.onnx", card=card).sha256 == exported.sha256


def test_the_network_is_not_changed(network: nn.Module, card: ModelCard, tmp_path: Path) -> None:
    model = frozen_copy(network).to(torch.bfloat16).to(memory_format=torch.channels_last).train()
    model.requires_grad_(True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_onnx(model, tmp_path / "model.onnx", card=card)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_nothing_is_printed(
    network: nn.Module, card: ModelCard, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export_onnx(network, tmp_path / "model.onnx", card=card)
    assert capfd.readouterr() == ("", "")


def test_full_disk_leaves_the_previous_file(
    network: nn.Module, card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"previous")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        export_onnx(network, path, card=card)
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


def test_wrong_number_of_classes_is_refused(network: nn.Module, card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="3 logits, but 2 classes"):
        export_onnx(network, tmp_path / "model.onnx", card=replace(card, classes=("a", "b")))
    assert not list(tmp_path.iterdir())


class DataDependent(nn.Module):
    """Control flow that depends on pixels has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return self.layer(x) if x.sum() > 0 else x


class FixedBatch(nn.Module):
    """Bakes the batch size into a reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 32 * 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(2, 3 * 32 * 32))


@pytest.mark.parametrize("model", [DataDependent(), FixedBatch()], ids=lambda model: type(model).__name__)
def test_what_cannot_be_exported_is_refused(model: nn.Module, card: ModelCard, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=type(model).__name__):
        export_onnx(model, tmp_path / "model.onnx", card=card)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_batch(batch: int, network: nn.Module, exported: OnnxFile, card: ModelCard) -> None:
    """Every family: `tests/backbones/test_registry_wide.py`."""
    images = torch.randn(batch, 3, card.preprocessing.size, card.preprocessing.size)
    with torch.inference_mode():
        expected = copy.deepcopy(network).eval()(images).numpy()
    found = ExportedClassifier.load(exported.path, threads=1).logits(images.numpy())
    assert found.shape == (batch, len(card.classes))
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5 * np.abs(expected).max())
