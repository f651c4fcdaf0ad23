"""A classifier from what a person points at: a run directory or an exported file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pocketvit.core.errors import RunError
from pocketvit.core.machine import choose_device
from pocketvit.core.rundir import RunDirectory
from pocketvit.deployment import ExportedClassifier
from pocketvit.tasks import ModelCard
from pocketvit.tasks.evaluation import Predict, torch_predictor
from pocketvit.training import load_model

__all__ = ["Classifier", "exported_files", "load_classifier", "load_network"]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """Something that turns prepared images (B, 3, S, S) into logits (B, C), and what it says about itself."""

    card: ModelCard
    predict: Predict
    run: RunDirectory | None


def load_classifier(path: Path, *, prefer_exported: bool) -> Classifier:
    """Load a run's network, a run's exported file, or an exported file on its own.

    Args:
        path: a run directory or a file.
        prefer_exported: for a run, use its exported file where there is one.

    Raises:
        RunError: neither a run nor a file, or a run that holds no trained network.
        CheckpointError: the file is damaged or was not written by pocketvit.
    """
    if path.is_file():
        exported = ExportedClassifier.load(path)
        return Classifier(card=exported.card, predict=exported, run=None)
    if not path.exists():
        raise RunError(f"There is no {path}.", fix="Give a run directory or an exported .onnx file.")
    run = RunDirectory.open(path)
    if prefer_exported and run.onnx.is_file():
        exported = ExportedClassifier.load(run.onnx)
        return Classifier(card=exported.card, predict=exported, run=run)
    network, card = load_network(run)
    return Classifier(card=card, predict=torch_predictor(network, choose_device("cpu")), run=run)


def load_network(run: RunDirectory) -> tuple[nn.Module, ModelCard]:
    """A run's trained network in evaluation mode.

    Raises:
        RunError: the run holds none.
    """
    path = run.checkpoints / "model.safetensors"
    if not path.is_file():
        raise RunError(
            f"{run.path} holds no trained network yet.",
            fix=f"Run `pocketvit train --resume {run.path}`.",
        )
    return load_model(path)


def exported_files(path: Path) -> list[Path]:
    """The exported file that `path` is, or those that the run at `path` holds: in float, and in integers.

    Raises:
        RunError: the run has not been exported.
    """
    if not path.is_dir():
        return [path]
    run = RunDirectory.open(path)
    if not run.onnx.is_file():
        raise RunError(f"{path} holds no exported file yet.", fix=f"Run `pocketvit export {path}`.")
    return [run.onnx, *([run.integer_file] if run.integer_file else [])]
