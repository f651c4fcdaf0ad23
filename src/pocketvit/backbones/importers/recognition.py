"""Which code base a file is from."""

from __future__ import annotations

import json

from pocketvit.backbones.importers import (
    cas_vit,
    cvnets,
    efficientformer,
    mobile_former,
    swiftformer,
    timm_files,
)
from pocketvit.backbones.importers.importer import Importer
from pocketvit.backbones.matching import with_nearest
from pocketvit.backbones.registry import get_entry
from pocketvit.backbones.weights_file import WeightsFile
from pocketvit.core.errors import CheckpointError, UnknownNameError
from pocketvit.core.files import read_json

__all__ = ["IMPORTERS", "recognise"]

IMPORTERS: tuple[Importer, ...] = (
    *cvnets.IMPORTERS,
    *swiftformer.IMPORTERS,
    *cas_vit.IMPORTERS,
    *efficientformer.IMPORTERS,
    *mobile_former.IMPORTERS,
    *timm_files.IMPORTERS,
)

SHOWN = 4  # names quoted from a file that is not recognised


def recognise(file: WeightsFile, *, model: str | None) -> Importer:
    """The importer whose marks the file has; else that of the model that is asked for or that the file names.

    Args:
        model: the registered name that the caller gave.

    Raises:
        CheckpointError: none or several; says what was seen and the nearest family.
    """
    _, tensors = file.choose()
    found = [importer for importer in IMPORTERS if importer.marks_found(tensors) == 1]
    if len(found) > 1:
        raise CheckpointError(
            f"{file.path} is ambiguous: it has the names of {' and of '.join(map(_describe, found))}.",
            fix="Only files with the weights of one network can be imported.",
        )
    if found:
        return found[0]
    name = model or _architecture(file)
    if name:
        return timm_files.named_importer(name)
    nearest = max(IMPORTERS, key=lambda importer: importer.marks_found(tensors))
    known = (
        f"The nearest is {_describe(nearest)}, which always has names that this file lacks: "
        f"{', '.join(with_nearest(mark, tensors) for mark in nearest.marks_lacking(tensors))}."
        if nearest.marks_found(tensors)
        else "No family that this library knows has names like these."
    )
    raise CheckpointError(
        f"{file.path} is of no code base that is known here. It has {len(tensors):,} tensors: "
        f"{', '.join(list(tensors)[:SHOWN])}, … {known}",
        fix="If it has timm's names, give its timm name with --model.",
    )


def _describe(importer: Importer) -> str:
    return f"{importer.family} ({importer.code_base})"


def _architecture(file: WeightsFile) -> str | None:
    """The model's name in the file, or in the `config.json` that the hub keeps beside it, if it is known."""
    name = file.architecture or _architecture_beside(file)
    try:
        return get_entry(name).name if name else None
    except UnknownNameError:
        return None


def _architecture_beside(file: WeightsFile) -> str | None:
    try:
        config = read_json(file.path.with_name("config.json"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    name = config.get("architecture") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None
