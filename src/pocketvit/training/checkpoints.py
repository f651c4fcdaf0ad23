"""Checkpoints: safetensors for the numbers, JSON beside it for the facts and as the record of a whole write.

A training checkpoint is a pair `step-00000120.safetensors` and `step-00000120.json`. The JSON is written last
and holds the SHA-256 of the other file, so a pair that was cut short at any moment is recognised; the pair
before it is kept and is what loading falls back to. Nothing is ever unpickled.

The deployable weights are such a pair too, `model.safetensors` and `model.json`, under the model's own
parameter names; the JSON (the card) holds all that is needed to build the model again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pocketvit.backbones import create_model
from pocketvit.core.console import console
from pocketvit.core.errors import CheckpointError
from pocketvit.core.files import read_json, sha256_of, write_bytes, write_json
from pocketvit.tasks import ModelCard

__all__ = [
    "Checkpoint",
    "clear_checkpoints",
    "load_checkpoint",
    "load_model",
    "load_weights",
    "save_checkpoint",
    "save_weights",
]

_FORMAT = 1
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A training state at rest.

    Attributes:
        step: optimizer steps tried so far, which orders checkpoints.
        architecture: name of the model.
        tensors: named tensors, on the CPU when loaded.
        facts: everything else; what JSON can hold.
    """

    step: int
    architecture: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the newest before it stays, older ones go.

    Raises:
        StorageError: the disk is full or not writable; what was there before stays usable.
    """
    path = folder / f"step-{checkpoint.step:08d}.safetensors"
    facts = {
        "step": checkpoint.step,
        "architecture": checkpoint.architecture,
        "facts": dict(checkpoint.facts),
    }
    _write_pair(path, checkpoint.tensors, facts)
    _keep_newest(folder, checkpoint.step)


def load_checkpoint(folder: Path, *, architecture: str) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when there is none at all.

    Args:
        architecture: the model it must belong to.

    Raises:
        CheckpointError: there are checkpoints but none is whole, or they belong to another architecture.
    """
    records = sorted(folder.glob("step-*.json"), reverse=True)
    problems: list[str] = []
    for record in records:
        try:
            tensors, facts = _read_pair(record.with_suffix(".safetensors"))
        except CheckpointError as error:
            problems.append(error.message)
            continue
        _check_architecture(record, facts["architecture"], architecture)
        if problems:
            console.print(f"[yellow]{' '.join(problems)} Going on from the one before, {record.stem}.[/]")
        return Checkpoint(facts["step"], facts["architecture"], tensors, facts["facts"])
    if problems:
        raise CheckpointError(
            f"No checkpoint in {folder} is whole. {' '.join(problems)}", fix="Start again with --overwrite."
        )
    return None


def clear_checkpoints(folder: Path) -> None:
    """Remove the training checkpoints in `folder`, and what a killed process left half-written."""
    for pattern in ("step-*.json", "step-*.safetensors", ".step-*.tmp"):
        for path in folder.glob(pattern):
            path.unlink()


def save_weights(path: Path, model: nn.Module, card: ModelCard, *, training: Mapping[str, Any]) -> None:
    """Write a model's weights to `path` (.safetensors) and its card to the .json beside it.

    Args:
        card: all that is needed to build the model again, feed it and name its outputs.
        training: how the weights came about, for the reader.

    Raises:
        StorageError: the disk is full or not writable.
    """
    facts = {"architecture": card.name, "card": card.to_dict(), "training": dict(training)}
    _write_pair(path, model.state_dict(), facts)


def load_weights(path: Path, *, architecture: str | None = None) -> tuple[dict[str, Tensor], ModelCard]:
    """The weights and the card that `save_weights` wrote.

    Args:
        architecture: refuse weights of any other model.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or is of another architecture.
    """
    tensors, facts = _read_pair(path)
    if architecture is not None:
        _check_architecture(path, facts["architecture"], architecture)
    return tensors, ModelCard.from_dict(facts.get("card", {}), where=str(path))


def load_model(path: Path) -> tuple[nn.Module, ModelCard]:
    """Build the model that `save_weights` wrote, with its weights, in evaluation mode.

    Returns:
        The model and its card.

    Raises:
        CheckpointError: as `load_weights`, or the weights do not fit the architecture the card names.
    """
    tensors, card = load_weights(path)
    model = create_model(card.name, num_classes=len(card.classes), **card.options.to_dict())
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit {card.name}: {error}") from None
    return model.eval(), card


def _write_pair(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    # Serialized in memory, so that a full disk shows as an OSError of one plain write; safetensors wants
    # contiguous tensors.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain))
    write_json(path.with_suffix(".json"), {"format": _FORMAT, "sha256": sha256_of(path), **facts})


def _read_pair(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    record = path.with_suffix(".json")
    try:
        facts = read_json(record)
    except FileNotFoundError:
        raise CheckpointError(
            f"{record} is missing.", fix="Weights and their .json belong together: copy both files."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(f"{record} is not whole.") from None
    if not isinstance(facts, dict) or "sha256" not in facts or "architecture" not in facts:
        raise CheckpointError(f"{record} was not written by pocketvit.")
    if facts.get("format") != _FORMAT:
        raise CheckpointError(
            f"{record} has format {facts.get('format')}; this version reads {_FORMAT}.",
            fix="Upgrade pocketvit.",
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    if sha256_of(path) != facts["sha256"]:
        raise CheckpointError(f"{path} is truncated or was altered: its SHA-256 is not the recorded one.")
    try:
        return safetensors.torch.load_file(path), facts
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from None


def _check_architecture(where: Path, found: str, expected: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"{where} holds weights of {found}, not of {expected}.",
            fix=f"Use --model {found}, or another run directory.",
        )


def _keep_newest(folder: Path, step: int) -> None:
    """Keep checkpoint `step` and the one before it; later ones are of a course that was given up."""
    names = sorted(path.stem for path in folder.glob("step-*.json"))
    kept = set([name for name in names if name <= f"step-{step:08d}"][-_KEPT:])
    for name in set(names) - kept:
        (folder / f"{name}.json").unlink()
    for path in [*folder.glob("step-*.safetensors"), *folder.glob(".step-*.tmp")]:
        if path.stem not in kept:
            path.unlink()
