"""Published and own weights into a network: what was used, under which licence, and what did not fit.

Weight files can come from anywhere, so only formats that cannot run code are read: safetensors, and PyTorch
files through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from safetensors.torch import load_file
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone
from pocketvit.backbones.registry import ModelEntry
from pocketvit.core.errors import CheckpointError

__all__ = ["PretrainedReport", "load_pretrained"]

HUB_TIMEOUT = 5.0  # seconds for the one request that finds out whether the hub can be reached
SAFETENSORS = "model.safetensors"
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
    try:
        file = _fetch(entry.hub)
    except Exception as error:  # of whichever HTTP library the hub's client is built on; the message has it
        return _unused(
            f"The published weights {entry.hub} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {error}); starting from random weights."
        )
    overlay = {"file": str(file)}  # timm renames and adapts the input channels where it has to
    donor = timm.create_model(
        entry.hub, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=_in_chans(model)
    )
    return _fill(model, donor.state_dict(), source=entry.hub, licence=entry.weights_licence)


def _unused(message: str) -> PretrainedReport:
    return PretrainedReport(used=False, source="", licence="", message=message)


def _fetch(hub: str) -> Path:
    """The weights file of a timm name: from the local cache, else from the hub if that answers at once.

    The hub's own client retries for most of a minute; one short request tells first whether that is any use.
    """
    cfg: Any = timm.get_pretrained_cfg(hub)
    repository, file = cfg.hf_hub_id, cfg.hf_hub_filename or SAFETENSORS
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    get_hf_file_metadata(hf_hub_url(repository, file), timeout=HUB_TIMEOUT)
    return Path(hf_hub_download(repository, file))


def _in_chans(model: nn.Module) -> int:
    return next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, wrappers taken off."""
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    except Exception as error:  # a hostile file can make the reader fail in any way
        raise CheckpointError(
            f"{path} cannot be read as weights: it is truncated, of another kind, or holds more than tensors "
            f"({type(error).__name__}).",
            fix="Download it again, or save it as safetensors. Files that would run code are never loaded.",
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    named: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    tensors = {str(key): value for key, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name, so it is not a file of weights.")
    return tensors


def _read_pytorch(path: Path) -> Any:
    with warnings.catch_warnings():
        # An unusual pickle protocol is either read or refused; no need to warn too.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


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
    message = f"Loaded {matched} of {len(own)} tensors from {source} (licence: {licence})."
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
