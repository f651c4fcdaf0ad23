"""What an importer is: how one code base's files are recognised and brought to this library's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from pocketvit.backbones.weights_file import WRAPPERS, Tensors
from pocketvit.core.errors import CheckpointError

__all__ = [
    "ChannelOrder",
    "Converted",
    "Importer",
    "Rule",
    "between_stages",
    "by_shape",
    "first",
    "rename",
    "sizes_at",
    "two_classifiers",
    "unchanged",
]

ChannelOrder = Literal["rgb", "bgr"]

Rule = tuple[str, str | Callable[[re.Match[str]], str]]
"""A regular expression and what takes the place of what it matches, as `re.sub` has them."""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Tensors under this library's names.

    Attributes:
        changes: what was done to their values, a sentence each.
    """

    tensors: Tensors
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Importer:
    """The files of one family as one code base writes them.

    Attributes:
        family: as its paper writes it.
        code_base: the repository.
        licence: of the weights that the code base publishes; `None` is the licence in the registry.
        marks: regular expressions; each matches the start of a name in every such file, and in no others.
        convert: from the file's names to this library's.
        variant: the registered name that converted tensors belong to.
        wrappers: which set is taken when a file has several.
        channels: order of the colours in the images that its published weights want.
        derived: endings of names whose tensors a network computes itself where it does not store them.
    """

    family: str
    code_base: str
    licence: str | None
    marks: tuple[str, ...]
    convert: Callable[[Tensors], Converted]
    variant: Callable[[Tensors], str]
    wrappers: tuple[str, ...] = WRAPPERS
    channels: ChannelOrder = "rgb"
    derived: tuple[str, ...] = ()

    def marks_lacking(self, names: Iterable[str]) -> list[str]:
        """The marks that no one of `names` has, as a person would write them: `stages.N.blocks.N.attn`."""
        names = list(names)
        lacking = [mark for mark in self.marks if not any(re.match(mark, name) for name in names)]
        return [re.sub(r"\\d\+?", "N", mark).replace("\\", "").removesuffix("$") for mark in lacking]

    def marks_found(self, names: Iterable[str]) -> float:
        """The share of the marks that are among `names`; 1 is this code base."""
        names = list(names)
        found = [any(re.match(mark, name) for name in names) for mark in self.marks]
        return sum(found) / len(found)


def first(wrapper: str) -> tuple[str, ...]:
    """`Importer.wrappers` for a code base whose published accuracy is that of the weights under `wrapper`."""
    return wrapper, *(other for other in WRAPPERS if other != wrapper)


def unchanged(tensors: Tensors) -> Converted:
    """The conversion of files that have this library's names already."""
    return Converted(tensors=tensors)


def rename(tensors: Tensors, rules: Sequence[Rule]) -> Tensors:
    """Apply every rule in turn to every name.

    Raises:
        CheckpointError: two names become one.
    """
    renamed: Tensors = {}
    origin: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise CheckpointError(f"'{origin[new]}' and '{name}' are both {new}; the file is ambiguous.")
        renamed[new], origin[new] = tensor, name
    return renamed


def between_stages(match: re.Match[str]) -> str:
    """`network.{2i}.` holds the blocks of stage i, `network.{2i + 1}.` what leads to stage i + 1."""
    index = int(match[1])
    return f"stages.{(index + 1) // 2}.{'downsample' if index % 2 else 'blocks'}."


def two_classifiers(tensors: Tensors) -> Converted:
    """Where there is one classifier, use it for both: their mean is then its output."""
    if "head.weight" not in tensors or "head_dist.weight" in tensors:
        return Converted(tensors=tensors)
    twins = {key.replace("head.", "head_dist."): value for key, value in _classifier(tensors, "head").items()}
    change = "The file has one classifier; it stands in for the second one as well, which changes no output."
    return Converted(tensors=tensors | twins, changes=(change,))


def _classifier(tensors: Mapping[str, Tensor], name: str) -> Tensors:
    return {key: value for key, value in tensors.items() if key in (f"{name}.weight", f"{name}.bias")}


def by_shape(
    family: str, places: Sequence[tuple[str, int]], variants: Mapping[str, Sequence[int]]
) -> Callable[[Tensors], str]:
    """A `variant` that looks at the sizes of a few tensors.

    Args:
        places: names of tensors and the dimension that counts.
        variants: those sizes for each registered name.
    """

    def variant(tensors: Tensors) -> str:
        sizes = sizes_at(family, places, tensors)
        for name, expected in variants.items():
            if sizes == tuple(expected):
                return name
        known = min(variants, key=lambda name: _distance(sizes, variants[name]))
        raise CheckpointError(
            f"This is a {family} of no published size: channels {sizes}. "
            f"The nearest is {known}: {tuple(variants[known])}.",
            fix="Only networks of the published sizes can be imported.",
        )

    return variant


def sizes_at(family: str, places: Sequence[tuple[str, int]], tensors: Tensors) -> tuple[int, ...]:
    """The sizes at `places`.

    Raises:
        CheckpointError: a tensor is not there or has fewer dimensions.
    """
    lacking = [name for name, dim in places if name not in tensors or tensors[name].ndim <= dim]
    if lacking:
        raise CheckpointError(
            f"This looks like {family}, but {', '.join(lacking)} (in this library's names) is not there, "
            "so the variant cannot be told.",
            fix="The file is incomplete; download it again.",
        )
    return tuple(tensors[name].shape[dim] for name, dim in places)


def _distance(sizes: Sequence[int], others: Sequence[int]) -> float:
    return sum(abs(a - b) / b for a, b in zip(sizes, others, strict=True))
