"""From a checkpoint of an official code base to a file of this library."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pocketvit._version import __version__
from pocketvit.backbones.factory import create_model
from pocketvit.backbones.importers.importer import ChannelOrder, Importer
from pocketvit.backbones.importers.recognition import recognise
from pocketvit.backbones.matching import match_tensors
from pocketvit.backbones.pretrained import classifier_keys, stem_key
from pocketvit.backbones.registry import ModelEntry, get_entry, list_models
from pocketvit.backbones.weights_file import Tensors, WeightsFile, read_weights_file
from pocketvit.core.errors import CheckpointError
from pocketvit.core.files import read_json, sha256_of, write_bytes, write_json

__all__ = ["ImportReport", "import_checkpoint"]

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What became of an import; also what the JSON beside the file says.

    Attributes:
        file: the safetensors file that was written.
        model: registered name of the network that the weights are of.
        also_fits: registered names with the same tensors, which differ in their input only.
        family: as its paper writes it.
        code_base: the repository whose names the file had.
        licence: of the weights that this code base publishes.
        source: the file that was read.
        wrapper: the entry of that file that was taken; empty when it is the weights themselves.
        left_out: further sets of weights in that file.
        matched: tensors; every tensor of the network has its partner.
        parts: `{"part", "tensors", "parameters"}` for each part of the network.
        changes: what was done to the values, a sentence each.
    """

    file: Path
    model: str
    also_fits: list[str]
    family: str
    code_base: str
    licence: str
    source: Path
    source_sha256: str
    wrapper: str
    left_out: list[str]
    num_classes: int
    in_chans: int
    matched: int
    parts: list[dict[str, Any]]
    changes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return asdict(self) | {"file": str(self.file), "source": str(self.source)}


def import_checkpoint(
    path: Path,
    *,
    out: Path = Path("weights"),
    model: str | None = None,
    channels: ChannelOrder | None = None,
) -> ImportReport:
    """Read a checkpoint of an official code base or of timm, and write it in this library's form.

    Two files are written to `out`: the weights as safetensors, and JSON that says whose they are, under which
    licence and what was changed. `load_pretrained` reads both.

    Args:
        path: safetensors, or what `torch.save` wrote; nothing in it is run.
        model: the registered (or timm) name, where the weights fit several or tell none.
        channels: order of the colours in the images that the weights want; by default that of the code base's
            published weights. BGR weights become RGB ones: their first convolution is reversed.

    Raises:
        CheckpointError: the file is damaged, would run code, or is of no network that is known here; or it
            is not of `model`.
        StorageError: the disk is full or cannot be written.
        UnknownNameError: there is no such model.
    """
    asked = get_entry(model).name if model else None
    file = read_weights_file(path)
    importer = recognise(file, model=asked)
    wrapper, tensors = file.choose(importer.wrappers)
    converted = importer.convert(tensors)
    entry = get_entry(asked or importer.variant(converted.tensors))
    network = _network(entry, converted.tensors)
    fitting, dropped = _fitting(
        file, importer, network, converted.tensors, name=entry.name, asked=bool(asked)
    )
    fitting, reversed_ = _for_rgb(network, fitting, channels, usual=importer.channels)
    target = out / f"{entry.name.replace('/', '_')}.safetensors"
    report = ImportReport(
        file=target,
        model=entry.name,
        also_fits=[name for name in list_models(f"{entry.name}_*") if get_entry(name).family == entry.family],
        family=importer.family,
        code_base=importer.code_base,
        licence=importer.licence or entry.weights_licence,
        source=path,
        source_sha256=sha256_of(path),
        wrapper=wrapper,
        left_out=[name for name in file.sets if name != wrapper],
        num_classes=_num_classes(network, fitting),
        in_chans=_in_chans(network, fitting),
        matched=len(fitting),
        parts=_parts(network, fitting),
        changes=[*converted.changes, *dropped, *reversed_],
    )
    _write(report, entry, fitting)
    return report


def _network(entry: ModelEntry, tensors: Tensors) -> nn.Module:
    """The network without memory for its weights, with as many classes and input channels as the file has."""
    with torch.device("meta"):
        network = create_model(entry.name)
        classes, chans = _num_classes(network, tensors), _in_chans(network, tensors)
        return create_model(entry.name, num_classes=classes, in_chans=chans)


def _num_classes(network: nn.Module, tensors: Tensors) -> int:
    weight = next((tensors[key] for key in classifier_keys(network) if key in tensors), None)
    return weight.shape[0] if weight is not None and weight.ndim else 1000


def _in_chans(network: nn.Module, tensors: Tensors) -> int:
    weight = tensors.get(stem_key(network))
    return weight.shape[1] if weight is not None and weight.ndim == 4 else 3


def _fitting(
    file: WeightsFile, importer: Importer, network: nn.Module, tensors: Tensors, *, name: str, asked: bool
) -> tuple[Tensors, list[str]]:
    """The tensors that the network has, in its order, and a sentence on those that it computes itself."""
    own: dict[str, Tensor] = network.state_dict()
    derived = [key for key in tensors if key.endswith(importer.derived) and key not in own]
    kept = {key: value for key, value in tensors.items() if key not in derived}
    match = match_tensors(own, kept)
    if not match.fits:
        raise CheckpointError(
            f"{file.path} was recognised as {importer.family} ({importer.code_base}), but it does not fit "
            f"{name}: {match.describe()}.",
            fix="Leave out --model to have the model found from the file."
            if asked
            else "The file is incomplete or of a changed network; download it again.",
        )
    dropped = [f"{len(derived)} tables that the network computes itself were left out."] if derived else []
    return {key: kept[key] for key in own}, dropped


def _for_rgb(
    network: nn.Module, tensors: Tensors, channels: ChannelOrder | None, *, usual: ChannelOrder
) -> tuple[Tensors, list[str]]:
    """The tensors for RGB images, and a sentence if that changed them."""
    stem = tensors[stem_key(network)]
    if (channels or usual) == "rgb" or stem.shape[1] != len(usual):
        return tensors, []
    change = (
        "The stem's input channels were reversed: weights for BGR images became weights for RGB images."
        if channels
        else "The stem's input channels were reversed: the published weights want BGR images, the imported "
        "ones RGB. For weights trained on RGB images (ml-cvnets from version 0.2 on) say so: channels rgb."
    )
    return tensors | {stem_key(network): stem.flip(1)}, [change]


def _parts(network: nn.Module, tensors: Tensors) -> list[dict[str, Any]]:
    learned = {name for name, _ in network.named_parameters()}
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for key, tensor in tensors.items():
        first, second, *_ = [*key.split("."), ""]
        part = counts[f"{first}.{second}" if second.isdigit() and first in ("stages", "network") else first]
        part[0] += 1
        part[1] += tensor.numel() if key in learned else 0
    return [{"part": part, "tensors": n, "parameters": size} for part, (n, size) in counts.items()]


def _write(report: ImportReport, entry: ModelEntry, tensors: Tensors) -> None:
    """The weights first, then the JSON that holds their checksum: a cut between the two is recognised."""
    record = report.file.with_suffix(".json")
    plain = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(plain)
    if not _may_write(report, record, content):
        raise CheckpointError(
            f"{report.file} (or the .json beside it) is there already and is not of this import.",
            fix="Choose another folder with --out.",
        )
    write_bytes(report.file, content)
    facts = {
        "format": _FORMAT,
        "sha256": sha256_of(report.file),
        "architecture": report.model,
        "weights_licence": report.licence,
        "code_licence": entry.code_licence,
        "family": report.family,
        "code_base": report.code_base,
        "source": {"file": report.source.name, "sha256": report.source_sha256, "wrapper": report.wrapper},
        "num_classes": report.num_classes,
        "in_chans": report.in_chans,
        "matched": report.matched,
        "changes": report.changes,
        "preprocessing": entry.preprocessing.to_dict(),
        "pocketvit": __version__,
    }
    write_json(record, facts)


def _may_write(report: ImportReport, record: Path, content: bytes) -> bool:
    """Official files of different training share names; none must silently take another's place."""
    if record.exists():
        return _source_of(record) == report.source_sha256
    return not report.file.exists() or report.file.read_bytes() == content


def _source_of(record: Path) -> Any:
    """The checksum of the file that an earlier import read; `None` where that is not what `record` is."""
    try:
        facts: Any = read_json(record)
        return facts["source"]["sha256"]
    except (ValueError, KeyError, TypeError):
        return None
