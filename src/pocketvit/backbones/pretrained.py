"""Published and own weights into a network: what was used, under which licence, and what did not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import timm
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone
from pocketvit.backbones.matching import match_tensors
from pocketvit.backbones.registry import ModelEntry
from pocketvit.backbones.weights_file import read_weights_file
from pocketvit.core.errors import CheckpointError
from pocketvit.core.files import read_json, sha256_of

__all__ = ["PretrainedReport", "classifier_keys", "load_pretrained", "stem_key"]

HUB_TIMEOUT = 5.0  # seconds for the one request that finds out whether the hub can be reached
SAFETENSORS = "model.safetensors"
UNKNOWN_LICENCE = "as the file's owner says"


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
            initial weights; a path is a safetensors or PyTorch file, whose licence is read from
            the JSON beside it if there is one.

    Raises:
        CheckpointError: the file is damaged, is not a file of weights, or is of another architecture.
    """
    if isinstance(source, Path):
        _, weights = read_weights_file(source).choose()
        return _fill(model, weights, source=str(source), licence=_licence_beside(source))
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
        entry.hub,
        pretrained=True,
        pretrained_cfg_overlay=overlay,
        in_chans=model.state_dict()[stem_key(model)].shape[1],
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


def stem_key(model: nn.Module) -> str:
    """Name of the weight that reads the image, (C, image channels, k, k)."""
    name = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return f"{name}.weight"


def _fill(model: nn.Module, weights: Mapping[str, Tensor], *, source: str, licence: str) -> PretrainedReport:
    """Load what fits; a classifier for other classes may stay out, anything else must fit."""
    own = model.state_dict()
    _check_channels(own, weights, stem_key(model), source)
    dropped = [
        key for key in classifier_keys(model) if key in weights and weights[key].shape != own[key].shape
    ]
    usable = {key: value for key, value in weights.items() if key not in dropped}
    match = match_tensors(own, usable, tolerated=dropped)
    if not match.fits:
        raise CheckpointError(
            f"{source} is of another architecture: {match.describe()}.",
            fix="Give the weights of the chosen model, or choose the model of these weights. "
            "`pocketvit import FILE` converts a file of the official code first.",
        )
    model.load_state_dict(usable, strict=False)
    message = f"Loaded {match.matched} of {match.total} tensors from {source} (licence: {licence})."
    if dropped:
        message += " Its classifier is for other classes, so a fresh one is trained."
    return PretrainedReport(
        used=True,
        source=source,
        licence=licence,
        message=message,
        matched=match.matched,
        missing=match.missing,
        unexpected=match.unexpected,
    )


def _check_channels(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], stem: str, source: str) -> None:
    """Say it plainly when the image's channels are what differs."""
    expected, given = own[stem].shape, weights[stem].shape if stem in weights else own[stem].shape
    if given != expected and (given[:1], given[2:]) == (expected[:1], expected[2:]):
        raise CheckpointError(
            f"{source} is for {given[1]}-channel images, the network for {expected[1]}-channel images: "
            f"{stem} is {tuple(given)}, not {tuple(expected)}.",
            fix=f"Give weights for {expected[1]}-channel images, or build it with in_chans={given[1]}.",
        )


def _licence_beside(path: Path) -> str:
    """The licence in the JSON that travels with the file, where there is one."""
    record = path.with_suffix(".json")
    if not record.is_file():
        return UNKNOWN_LICENCE
    try:
        facts = read_json(record)
    except ValueError as error:
        raise CheckpointError(
            f"{record} cannot be read, so the licence of {path} is not known ({error}).",
            fix="Import the weights again, or remove that file if it does not belong to them.",
        ) from None
    facts = _mapping(facts)
    licence = facts.get("weights_licence") or _mapping(facts.get("card")).get("weights_licence")
    if licence and facts.get("sha256") not in (None, sha256_of(path)):
        raise CheckpointError(
            f"{path} is truncated or was altered: its SHA-256 is not the one in {record.name}.",
            fix=f"Copy both files again, or remove {record.name} if it does not belong to the weights.",
        )
    return str(licence) if licence else UNKNOWN_LICENCE


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def classifier_keys(model: nn.Module) -> list[str]:
    """Names of the tensors of the linear classifiers."""
    if isinstance(model, Backbone):
        names: tuple[str, ...] = model.classifiers
    else:
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        classifier = cfg.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
