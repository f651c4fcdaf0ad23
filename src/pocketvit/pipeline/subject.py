"""What `pocketvit quantize` is pointed at: a run, a weights file or a model's name; and the images for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from pocketvit.backbones import ModelEntry, create_model, get_entry
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.core.errors import CheckpointError, ConfigError, RunError
from pocketvit.core.files import read_json
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData, open_images
from pocketvit.pipeline.evaluate import with_classes_of
from pocketvit.pipeline.load import load_network
from pocketvit.tasks import ModelCard
from pocketvit.training import load_model

__all__ = ["Subject", "load_images", "load_subject"]

_IMAGENET = 1000
"""Classes of published weights, whose names are those of ImageNet's folders."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained network.

    Attributes:
        run: the run that it is of, if it is of one.
    """

    network: nn.Module
    card: ModelCard
    run: RunDirectory | None = None


def load_subject(source: str) -> Subject:
    """A trained network, from a run directory, a .safetensors file with its .json, or the hub by its name.

    Raises:
        RunError: there is nothing of this name, or a run that holds no trained network.
        UnknownNameError: no such model.
        CheckpointError: the weights are damaged or cannot be fetched.
    """
    path = Path(source)
    if path.is_dir():
        run = RunDirectory.open(path)
        network, card = load_network(run)
        return Subject(network=network, card=card, run=run)
    if path.is_file():
        return _of_file(path)
    if "/" in source or path.suffix in {".safetensors", ".onnx", ".pt", ".pth"}:
        raise RunError(
            f"There is no {source}.", fix="Give a run directory, a weights file or a model's name."
        )
    entry = get_entry(source)
    network = create_model(source, num_classes=_IMAGENET)
    report = load_pretrained(network, entry, "auto")
    if not report.used:
        raise CheckpointError(
            f"{source} has no trained weights here: {report.message}",
            fix="Give a run directory, or the file that `pocketvit import` wrote.",
        )
    return Subject(network=network.eval(), card=_published(entry, report.licence))


def load_images(
    subject: Subject,
    data: str | None,
    *,
    val_fraction: float,
    seed: int,
    limit: int | None,
    max_damaged: float,
) -> ImageData:
    """Images with labels that index the network's classes.

    Args:
        data: where they are; by default what the run was trained on, split as it was then.
        val_fraction, seed, limit, max_damaged: as `open_images` takes them, for `data` that is given.

    Raises:
        ConfigError: not a run, and no data.
        DataError: the images cannot be used, or have classes that the network does not know.
    """
    if data is not None:
        images = open_images(data, val_fraction=val_fraction, seed=seed, limit=limit, max_damaged=max_damaged)
    elif subject.run is None:
        raise ConfigError(
            "Quantization looks at a few training images, and measures on others.",
            fix="Say where they are with --data.",
        )
    else:
        saved = subject.run.read("run.json")["config"]
        settings = {key: saved[key] for key in ("val_fraction", "seed", "limit", "max_damaged")}
        images = open_images(saved["data"], **settings)
    ours, theirs = subject.card.classes, images.classes
    return replace(
        images,
        classes=ours,
        train=with_classes_of(images.train, theirs, ours),
        val=with_classes_of(images.val, theirs, ours),
    )


def _of_file(path: Path) -> Subject:
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path} is not a .safetensors file.",
            fix="Give a run directory, the weights of a run (checkpoints/model.safetensors), or what "
            "`pocketvit import` wrote. An exported file cannot be quantized any more.",
        )
    try:
        facts = read_json(path.with_suffix(".json"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(
            f"{path} has no readable .json beside it, so its network is not known.",
            fix="Weights and their .json belong together: copy both files.",
        ) from None
    if "card" in facts or "architecture" not in facts:
        network, card = load_model(path)
        return Subject(network=network, card=card)
    entry = get_entry(facts["architecture"])
    if facts.get("num_classes") != _IMAGENET:
        raise CheckpointError(
            f"{path} does not name the {facts.get('num_classes')} classes it tells apart.",
            fix="Train on it first: `pocketvit build DATA --pretrained` with this file.",
        )
    network = create_model(entry.name, num_classes=_IMAGENET)
    report = load_pretrained(network, entry, path)
    return Subject(network=network.eval(), card=_published(entry, report.licence))


def _published(entry: ModelEntry, licence: str) -> ModelCard:
    names = ImageNetInfo()
    return ModelCard(
        name=entry.name,
        classes=tuple(names.index_to_label_name(i) for i in range(_IMAGENET)),
        preprocessing=entry.preprocessing,
        code_licence=entry.code_licence,
        weights_licence=licence,
        source=entry.source,
    )
