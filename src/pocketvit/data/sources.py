"""Open labelled images wherever they are: a folder, parquet files, torchvision, scikit-learn's digits."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pocketvit.core.errors import ConfigError, DataError
from pocketvit.core.names import nearest
from pocketvit.data.partition import stratified_sample, stratified_split
from pocketvit.data.readers.digits import read_digits
from pocketvit.data.readers.folder import read_folder
from pocketvit.data.readers.listing import Listing
from pocketvit.data.readers.parquet import parquet_files, read_parquet
from pocketvit.data.readers.torchvision_sets import read_torchvision
from pocketvit.data.splits import ImageData, ImageSplit, Problem
from pocketvit.data.survey import Facts, survey

__all__ = ["DATA_ROOT", "assemble", "open_images", "read_listing"]

DATA_ROOT = Path("~/.cache/pocketvit/data")
"""Where torchvision's data sets are kept unless another folder is given."""

_SAMPLE = 256  # images whose size is looked at when not every one is decoded


def open_images(
    source: str | Path,
    *,
    val_fraction: float = 0.2,
    seed: int = 0,
    limit: int | None = None,
    max_damaged: float = 0.05,
    check: Literal["all", "none"] = "all",
    data_root: Path = DATA_ROOT,
) -> ImageData:
    """Labelled images, split for training and validation.

    Every image is read once and, with `check="all"`, decoded; what cannot be decoded is left out and listed.

    Args:
        source: a folder (`train/` and `val/`, or one folder per class), a parquet file or a folder of them,
            `digits`, or `torchvision:NAME` such as `torchvision:CIFAR10`.
        val_fraction: share of each class set aside for validation, when the source has no split of its own.
        seed: chooses which images are set aside, and which are kept under a `limit`.
        limit: use this many images in all. The source's own split stays as it is and both parts shrink
            in proportion; so does every class.
        max_damaged: the largest share of unusable images to accept.
        check: `"none"` only reads the files; a damaged image then shows up in training.
        data_root: where torchvision's data sets are kept or downloaded to.

    Raises:
        ConfigError: `val_fraction` is not between 0 and 1, or `limit` is not positive.
        DataError: there is nothing at `source`, no two classes, too many damaged images, or the split is
            not usable; the message says what to do.
    """
    listing = _limited(read_listing(source, data_root=data_root), limit, seed)
    facts = [survey(part, decoding=check == "all") for part in listing.parts]
    data = assemble(listing, facts, source, val_fraction=val_fraction, seed=seed, max_damaged=max_damaged)
    if limit is None:
        return data
    return replace(data, split_rule=f"{data.split_rule}, {data.checked} images chosen with seed {seed}")


def assemble(
    listing: Listing,
    facts: Sequence[Sequence[Facts]],
    source: str | Path,
    *,
    val_fraction: float,
    seed: int,
    max_damaged: float,
) -> ImageData:
    """The usable images of `listing`, split; raises as `open_images`.

    Args:
        facts: what was found about each image of each part of the listing.
    """
    if not 0 < val_fraction < 1:
        raise ConfigError(f"The share for validation is {val_fraction}; it must be between 0 and 1.")
    problems = [fact.problem for found in facts for fact in found if fact.problem is not None]
    checked = sum(map(len, facts))
    _refuse_damaged(problems, checked, max_damaged, source)
    usable = [_usable(part, found) for part, found in zip(listing.parts, facts, strict=True)]
    digests = [[fact.digest for fact in found if fact.problem is None] for found in facts]
    train, val, rule = _divide(usable, digests[0], listing.rule, val_fraction, seed)
    classes, train, val, empty = _drop_empty_classes(listing.classes, train, val)
    return ImageData(
        name=listing.name,
        source=str(source),
        classes=classes,
        train=train,
        val=val,
        split_rule=rule,
        problems=(*listing.problems, *empty, *problems),
        checked=checked,
        fingerprint=_fingerprint(usable, digests, listing.classes),
        typical_size=_typical_size(train, facts),
    )


def read_listing(source: str | Path, *, data_root: Path = DATA_ROOT) -> Listing:
    """The labelled images at `source` as they are stored, none of them looked at.

    Raises:
        DataError: nothing is there, or it is not laid out in a known way.
    """
    text = str(source)
    if text == "digits":
        return read_digits()
    if text.startswith("torchvision:"):
        return read_torchvision(text.removeprefix("torchvision:"), root=data_root.expanduser())
    path = Path(source).expanduser().absolute()
    if not path.exists():
        raise _missing(source, path)
    if files := parquet_files(path):
        return read_parquet(path, files)
    if not path.is_dir():
        raise DataError(
            f"{path} is a file; images are expected in a folder.",
            fix="Give the folder that holds a folder per class, or a parquet file.",
        )
    return read_folder(path)


def _missing(source: str | Path, path: Path) -> DataError:
    if path.is_symlink():
        return DataError(f"{path} is a broken link to {path.readlink()}.")
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    siblings = [other.name for other in beside if not other.name.startswith(".")]
    close = [str(path.parent / name) for name in nearest(path.name, siblings)]
    close += nearest(str(source), ["digits"])
    known = "Give a folder of images, a parquet file, `digits` or `torchvision:NAME`."
    return DataError(
        f"There is nothing at {path}.", fix=f"Did you mean {' or '.join(close)}?" if close else known
    )


def _limited(listing: Listing, limit: int | None, seed: int) -> Listing:
    if limit is None:
        return listing
    if limit < 1:
        raise ConfigError(f"The limit on the number of images is {limit}; it must be at least 1.")
    n_train, n_val = len(listing.train), len(listing.val or ())
    share = round(limit * n_train / (n_train + n_val))
    return replace(
        listing,
        train=_sample(listing.train, share, seed),
        val=None if listing.val is None else _sample(listing.val, limit - share, seed),
    )


def _sample(split: ImageSplit, n: int, seed: int) -> ImageSplit:
    keys = [split.key(i) for i in range(len(split))]
    return split.subset(stratified_sample(split.labels, keys, n=n, seed=seed))


def _refuse_damaged(problems: Sequence[Problem], checked: int, allowed: float, source: str | Path) -> None:
    share = len(problems) / max(checked, 1)
    if share <= allowed:
        return
    first = "".join(f"\n  {problem.key}: {problem.problem}" for problem in problems[:5])
    rest = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise DataError(
        f"{len(problems)} of {checked} images in {source} cannot be used "
        f"({_percent(share)}; {_percent(allowed)} is allowed):{first}{rest}",
        fix=f"Repair or remove them, or accept that many with --max-damaged {math.ceil(share * 100) / 100}.",
    )


def _percent(share: float) -> str:
    """With a decimal where there is one: 5.3% is not 5%."""
    return f"{round(share * 100, 1):g}%"


def _usable(split: ImageSplit, facts: Sequence[Facts]) -> ImageSplit:
    whole = [i for i, fact in enumerate(facts) if fact.problem is None]
    return split if len(whole) == len(split) else split.subset(whole)


def _divide(
    parts: Sequence[ImageSplit], ids: Sequence[str], rule: str, val_fraction: float, seed: int
) -> tuple[ImageSplit, ImageSplit, str]:
    if len(parts) == 2:
        return parts[0], parts[1], rule
    train, val = stratified_split(parts[0].labels, ids, val_fraction=val_fraction, seed=seed)
    percent = f"{100 - 100 * val_fraction:g}/{100 * val_fraction:g}"
    return parts[0].subset(train), parts[0].subset(val), f"stratified {percent}, seed {seed}"


def _drop_empty_classes(
    classes: Sequence[str], train: ImageSplit, val: ImageSplit
) -> tuple[tuple[str, ...], ImageSplit, ImageSplit, list[Problem]]:
    counts = train.counts(len(classes))
    foreign = sorted({classes[label] for label in val.labels if counts[label] == 0})
    if foreign:
        raise DataError(
            f"The validation part has classes without a usable image for training: {', '.join(foreign[:5])}.",
            fix="Add images of these classes to the training part, or remove them from the validation part.",
        )
    kept = [label for label, count in enumerate(counts) if count]
    if len(kept) < 2:
        named = f": only '{classes[kept[0]]}'" if kept else ""
        raise DataError(f"There are no two classes with usable images{named}.", fix="Two classes are needed.")
    if not len(val):
        raise DataError("Every class has a single image, so none can be set aside to validate with.")
    if len(kept) == len(classes):
        return tuple(classes), train, val, []
    new = {label: position for position, label in enumerate(kept)}
    empty = [
        Problem(name, "a class without a usable image; left out")
        for name, count in zip(classes, counts, strict=True)
        if not count
    ]
    train, val = (part.relabelled([new[label] for label in part.labels]) for part in (train, val))
    return tuple(classes[label] for label in kept), train, val, empty


def _fingerprint(
    parts: Sequence[ImageSplit], digests: Sequence[Sequence[str]], classes: Sequence[str]
) -> str:
    lines = [
        f"{part.key(i)}\0{classes[part.labels[i]]}\0{digest}\n"
        for part, found in zip(parts, digests, strict=True)
        for i, digest in enumerate(found)
    ]
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _typical_size(split: ImageSplit, facts: Sequence[Sequence[Facts]]) -> int:
    short = [min(fact.size) for found in facts for fact in found if fact.size is not None]
    if not short:
        some = split.subset(range(0, len(split), max(len(split) // _SAMPLE, 1)))
        short = [min(fact.size) for fact in survey(some, title="Looking at sizes") if fact.size is not None]
    if not short:
        raise DataError("None of the images that were looked at can be decoded.")
    return round(statistics.median(short))
