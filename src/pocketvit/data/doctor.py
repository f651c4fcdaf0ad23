"""What is wrong with a data set, before a training run finds out."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from pocketvit.core.errors import DataError
from pocketvit.data.decode import IMAGE_SUFFIXES
from pocketvit.data.readers.listing import Listing
from pocketvit.data.sources import DATA_ROOT, assemble, read_listing
from pocketvit.data.splits import ImageSplit
from pocketvit.data.survey import Facts, survey

__all__ = ["DataReport", "Finding", "inspect"]

_FEW = 10  # images of a class below which neither training nor its accuracy means much
_IMBALANCE = 10  # ratio of the largest class to the smallest
_SIZE_SPREAD = 8  # ratio of short sides
_STRIP = 4  # ratio of the sides of one image


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed."""

    severity: Literal["error", "warning", "note"]
    """An error stops `pocketvit build`, a warning makes the model or its score worse, a note is only told."""
    what: str
    where: tuple[str, ...]
    """Keys of the images, names of the classes or files."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What `inspect` found."""

    source: str
    classes: tuple[str, ...] = ()
    train: tuple[int, ...] = ()
    """Images of each class, usable or not."""
    val: tuple[int, ...] | None = None
    """None: the source has no validation part of its own, one will be set aside."""
    short_sides: tuple[int, int, int] | None = None
    """Smallest, median and largest short side, in pixels."""
    formats: dict[str, int]
    """Number of images by file format."""
    modes: dict[str, int]
    """Number of images by stored pixel format, in Pillow's names."""
    findings: tuple[Finding, ...]

    @property
    def unusable(self) -> bool:
        """Whether something would stop `pocketvit build`."""
        return any(finding.severity == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `classes` is a list of {"name", "train", "val"}."""
        val = self.val or (None,) * len(self.classes)
        rows = [
            {"name": name, "train": n_train, "val": n_val}
            for name, n_train, n_val in zip(self.classes, self.train, val, strict=True)
        ]
        short = self.short_sides and dict(zip(("min", "median", "max"), self.short_sides, strict=True))
        return {
            "source": self.source,
            "classes": rows,
            "short_side": short,
            "formats": self.formats,
            "modes": self.modes,
            "findings": [asdict(finding) | {"where": list(finding.where)} for finding in self.findings],
            "unusable": self.unusable,
        }


def inspect(source: str | Path, *, max_damaged: float = 0.05, data_root: Path = DATA_ROOT) -> DataReport:
    """Decode every image at `source` and report what is odd.

    Args:
        source: as in `open_images`.
        max_damaged: the share of damaged images that `open_images` will accept.
        data_root: as in `open_images`.
    """
    try:
        listing = read_listing(source, data_root=data_root)
    except DataError as error:
        finding = Finding("error", error.message, (), error.fix)
        return DataReport(source=str(source), formats={}, modes={}, findings=(finding,))
    facts = [survey(part) for part in listing.parts]
    whole = [fact for found in facts for fact in found if fact.size is not None]
    short = [min(fact.size) for fact in whole if fact.size is not None]
    n = len(listing.classes)
    order = ("error", "warning", "note")
    findings = sorted(_findings(listing, facts, source, max_damaged), key=lambda f: order.index(f.severity))
    return DataReport(
        source=str(source),
        classes=listing.classes,
        train=tuple(listing.train.counts(n)),
        val=None if listing.val is None else tuple(listing.val.counts(n)),
        short_sides=(min(short), round(statistics.median(short)), max(short)) if short else None,
        formats=dict(Counter(fact.format for fact in whole).most_common()),
        modes=dict(Counter(fact.mode for fact in whole).most_common()),
        findings=tuple(findings),
    )


_Image = tuple[ImageSplit, int, Facts]


def _findings(
    listing: Listing, facts: Sequence[Sequence[Facts]], source: str | Path, max_damaged: float
) -> Iterator[Finding]:
    try:
        assemble(listing, facts, source, val_fraction=0.2, seed=0, max_damaged=max_damaged)
    except DataError as error:
        yield Finding("error", error.message.splitlines()[0].removesuffix(":"), (), error.fix)
    images = [
        (part, i, fact)
        for part, found in zip(listing.parts, facts, strict=True)
        for i, fact in enumerate(found)
    ]
    yield from _damaged(images)
    yield from _left_out(listing)
    yield from _copies(images)
    yield from _class_sizes(listing)
    whole = [image for image in images if image[2].size is not None]
    yield from _pixels(whole)
    yield from _shapes(whole)


def _damaged(images: Sequence[_Image]) -> Iterator[Finding]:
    problems = [fact.problem for _, _, fact in images if fact.problem is not None]
    if problems:
        where = tuple(f"{problem.key}: {problem.problem}" for problem in problems)
        yield Finding(
            "warning",
            f"{_images(problems)} cannot be decoded",
            where,
            "Repair or remove them; they are left out.",
        )


def _left_out(listing: Listing) -> Iterator[Finding]:
    if listing.problems:
        where = tuple(problem.key for problem in listing.problems)
        yield Finding("warning", "Class folders without images", where, "Add images or remove the folders.")
    loose = [name for name in listing.ignored if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        what = f"{_images(loose)} ignored: outside the class folders"
        yield Finding("warning", what, tuple(loose), "Move them into the folder of their class.")
    other = [name for name in listing.ignored if name not in loose]
    if other:
        yield Finding(
            "note", f"{_count(other, 'other file')} ignored", tuple(other), "Nothing needs to be done."
        )


def _copies(images: Sequence[_Image]) -> Iterator[Finding]:
    """Groups of images with the same bytes."""
    groups: defaultdict[str, list[_Image]] = defaultdict(list)
    for image in images:
        if image[2].digest:
            groups[image[2].digest].append(image)
    leaks: list[str] = []
    mixed: list[str] = []
    inside: list[str] = []
    for group in groups.values():
        keys = " = ".join(part.key(i) for part, i, _ in group)
        if len(group) == 1:
            continue
        if len({id(part) for part, _, _ in group}) > 1:
            leaks.append(keys)
        if len({part.labels[i] for part, i, _ in group}) > 1:
            mixed.append(keys)
        elif keys not in leaks[-1:]:
            inside.append(keys)
    if leaks:
        what = f"{_images(leaks)} both in the training and the validation part: the score is too good"
        yield Finding("warning", what, tuple(leaks), "Remove the copies from the validation part.")
    if mixed:
        what = f"{_images(mixed)} in several classes"
        yield Finding("warning", what, tuple(mixed), "Keep each in the class it belongs to.")
    if inside:
        what = f"{_images(inside)} more than once"
        yield Finding("note", what, tuple(inside), "Remove the copies, unless they are meant.")


def _class_sizes(listing: Listing) -> Iterator[Finding]:
    counts = listing.train.counts(len(listing.classes))
    named = list(zip(listing.classes, counts, strict=True))
    few = tuple(f"{name} ({count})" for name, count in named if count < _FEW)
    if few:
        what = f"{_count(few, 'class', 'classes')} with fewer than {_FEW} images to train on"
        yield Finding("warning", what, few, "Add images, or merge or remove the classes.")
    if max(counts) >= _IMBALANCE * max(min(counts), 1):
        (most, largest), (least, smallest) = max(named, key=lambda x: x[1]), min(named, key=lambda x: x[1])
        yield Finding(
            "warning",
            f"The classes are uneven: {largest} images of {most}, {smallest} of {least}",
            (most, least),
            "Add images of the small classes; look at the recall of each class, not at the accuracy alone.",
        )
    if listing.val is not None:
        val = listing.val.counts(len(listing.classes))
        missing = tuple(name for name, count in zip(listing.classes, val, strict=True) if not count)
        if missing:
            what = f"{_count(missing, 'class', 'classes')} without an image in the validation part"
            yield Finding(
                "warning", what, missing, "Add some: nothing is known about how well they are recognised."
            )


def _pixels(images: Sequence[_Image]) -> Iterator[Finding]:
    suffixes = Image.registered_extensions()
    misnamed: list[str] = []
    for part, i, fact in images:
        key = part.key(i)
        claimed = suffixes.get(PurePosixPath(key).suffix.lower())
        if claimed is not None and claimed != fact.format and {claimed, fact.format} != {"JPEG", "MPO"}:
            misnamed.append(f"{key} is {fact.format}")
    if misnamed:
        what = f"{_images(misnamed)} with the ending of another format"
        yield Finding("note", what, tuple(misnamed), "They are read by their content; other tools may not.")
    for modes, what, advice in (
        ({"LA", "La", "PA", "RGBA", "RGBa"}, "transparent", "What is transparent becomes white."),
        ({"CMYK"}, "stored for print (CMYK)", "They are converted to RGB; check that the colours are right."),
        ({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}, "of more than 8 bits", "They are scaled to 8 bits."),
    ):
        keys = tuple(part.key(i) for part, i, fact in images if fact.mode in modes)
        if keys:
            yield Finding("note", f"{_images(keys)} {what}", keys, advice)
    grey = tuple(part.key(i) for part, i, fact in images if fact.mode in {"1", "L", "LA", "I", "F", "I;16"})
    if 0 < len(grey) < len(images):
        what = f"{_images(grey)} grey, the others in colour"
        yield Finding("note", what, grey, "Check that grey does not go with the class: it would be learnt.")


def _shapes(images: Sequence[_Image]) -> Iterator[Finding]:
    sizes = {part.key(i): fact.size for part, i, fact in images if fact.size is not None}
    if not sizes:
        return
    smallest, largest = min(sizes, key=lambda k: min(sizes[k])), max(sizes, key=lambda k: min(sizes[k]))
    low, high = min(sizes[smallest]), min(sizes[largest])
    if high >= _SIZE_SPREAD * low:
        what = f"The sizes differ widely: short sides from {low} to {high} pixels"
        yield Finding("note", what, (smallest, largest), "All are resized to the model's input.")
    strips = tuple(key for key, size in sizes.items() if max(size) > _STRIP * min(size))
    if strips:
        what = f"{_images(strips)} more than {_STRIP} times as long as wide"
        yield Finding(
            "note", what, strips, "Only the middle is seen at evaluation; cut them to what matters."
        )


def _images(items: Sequence[object]) -> str:
    return _count(items, "image")


def _count(items: Sequence[object], one: str, many: str = "") -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"
