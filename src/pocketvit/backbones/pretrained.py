"""Published and own weights into a network: what was used, under which licence, and what did not fit.

Weight files can come from anywhere, so only formats that cannot run code are read: safetensors, and PyTorch
files through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone
from pocketvit.backbones.registry import ModelEntry
from pocketvit.core.errors import CheckpointError

__all__ = ["PretrainedReport", "load_pretrained"]

HUB_TIMEOUT = 5.0  # seconds for the one request that finds out whether the hub can be reached
WRAPPERS = ("model_ema", "model", "state_dict")
SHOWN = 3  # keys named in a message


@dataclass(frozen=True, kw_only=True)
class PretrainedReport:
    """What became of loading weights.

    Attributes:
        used: whether the network holds weights from `source`.
        source: hub name or file; empty when none was used.
        matched: tensors that were loaded.
        missing: tensors of the network that kept their initial values.
        unexpected: tensors of the file that the network does not have.
        message: all this in one sentence or two.
    """

    used: bool
    source: str
    licence: str
    message: str
    matched: int = 0
    missing: list[str] = field(default_factory=list[str])
    unexpected: list[str] = field(default_factory=list[str])


def load_pretrained(
    model: nn.Module, entry: ModelEntry, source: Literal["auto", "none"] | Path
) -> PretrainedReport:
    """Fill `model`, built from `entry`, with weights.

    Args:
        source: `"auto"` fetches the entry's published weights and reports when it cannot; `"none"` leaves the
            initial weights; a path is a safetensors or PyTorch file.

    Raises:
        CheckpointError: the file is damaged, is not a file of weights, or is of another architecture.
    """
    if isinstance(source, Path):
        return _fill(model, _read(source), source=str(source), licence="as the file's owner says")
    if source == "none":
        return _unused("Starting from random weights, as asked.")
    if entry.hub is None:
        return _unused(f"No published weights of {entry.name} can be fetched; starting from random weights.")
    if not _hub_has(entry.hub):
        return _unused(
            f"The weights {entry.hub} could not be fetched from the Hugging Face hub (no answer from it); "
            "starting from random weights."
        )
    donor = timm.create_model(entry.hub, pretrained=True, in_chans=_in_chans(model))
    return _fill(model, donor.state_dict(), source=entry.hub, licence=entry.weights_licence)


def _unused(message: str) -> PretrainedReport:
    return PretrainedReport(used=False, source="", licence="", message=message)


def _hub_has(hub: str) -> bool:
    """Whether timm can get these weights: they are cached here, or one request to the hub is answered."""
    cfg = timm.get_pretrained_cfg(hub)
    repository = cfg.hf_hub_id if cfg is not None else None
    if repository is None:
        return False
    if isinstance(try_to_load_from_cache(repository, "model.safetensors"), str):
        return True
    try:
        get_hf_file_metadata(hf_hub_url(repository, "model.safetensors"), timeout=HUB_TIMEOUT)
    except Exception:
        return False
    return True


def _in_chans(model: nn.Module) -> int:
    return next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, wrappers taken off."""
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}.")
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (
        SafetensorError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
        OSError,
    ) as error:
        raise CheckpointError(
            f"{path} cannot be read as weights: it is truncated, of another kind, or holds more than tensors "
            f"({type(error).__name__}).",
            fix="Download it again, or save it as safetensors. Files that would run code are never loaded.",
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = {str(key): value for key, value in dict(content).items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name, so it is not a file of weights.")
    return tensors


def _fill(model: nn.Module, weights: Mapping[str, Tensor], *, source: str, licence: str) -> PretrainedReport:
    """Load what fits; a classifier for other classes may stay out, anything else must fit."""
    own = model.state_dict()
    dropped = [
        key for key in _classifier_keys(model) if key in weights and weights[key].shape != own[key].shape
    ]
    usable = {key: value for key, value in weights.items() if key not in dropped}
    missing = [key for key in own if key not in usable]
    unexpected = [key for key in usable if key not in own]
    misshapen = [key for key in own if key in usable and usable[key].shape != own[key].shape]
    matched = len(own) - len(missing) - len(misshapen)
    if unexpected or misshapen or set(missing) - set(dropped):
        raise CheckpointError(
            f"{source} is of another architecture: {matched} of {len(own)} tensors match"
            + _first("missing", [key for key in missing if key not in dropped])
            + _first("unexpected", unexpected)
            + _first("of another shape", misshapen)
            + ".",
            fix="Give the weights of the chosen model, or choose the model of these weights.",
        )
    model.load_state_dict(usable, strict=False)
    message = f"Loaded {matched} of {len(own)} tensors from {source}."
    if dropped:
        message += " Its classifier is for other classes, so a fresh one is trained."
    return PretrainedReport(
        used=True,
        source=source,
        licence=licence,
        message=message,
        matched=matched,
        missing=missing,
        unexpected=unexpected,
    )


def _first(what: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"; {what}: {', '.join(keys[:SHOWN])}{more}" if keys else ""


def _classifier_keys(model: nn.Module) -> list[str]:
    if isinstance(model, Backbone):
        names: tuple[str, ...] = model.classifiers
    else:
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        classifier = cfg.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
