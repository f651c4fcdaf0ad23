"""An ordered set of labelled images, whatever they are stored in."""

from __future__ import annotations

import bisect
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pocketvit.core.errors import DamagedImageError
from pocketvit.data.decode import decode_image, read_file

__all__ = ["FileSplit", "ImageData", "ImageSplit", "Joined", "MemorySplit", "Problem", "Subset"]


@dataclass(frozen=True)
class Problem:
    """Something in the data that cannot be used, and why."""

    key: str
    problem: str

    @classmethod
    def of(cls, key: str, error: DamagedImageError) -> Problem:
        """The problem that `error` tells about the image `key`."""
        return cls(key, error.message.removeprefix(f"{key}: "))


class ImageSplit(ABC):
    """An ordered set of labelled images.

    Cheap to pickle: images are read when they are asked for, so loader processes can have copies.

    Attributes:
        labels: class index of each image.
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def key(self, i: int) -> str:
        """The name of image `i`, unique in the data set, such as `"train/cat/01.jpg"`."""

    @abstractmethod
    def content(self, i: int) -> bytes:
        """The bytes of image `i` as an image file.

        Raises:
            DamagedImageError: they cannot be read.
        """

    def load(self, i: int, *, at_least: int | None = None) -> Image.Image:
        """Image `i`: RGB, upright, 8 bits.

        Args:
            at_least: see `pocketvit.data.decode.decode_image`.

        Raises:
            DamagedImageError: it cannot be read or decoded.
        """
        return decode_image(self.content(i), name=self.key(i), at_least=at_least)

    def subset(self, indices: Sequence[int]) -> ImageSplit:
        """The images at `indices`, in that order."""
        return Subset(self, indices, [self.labels[i] for i in indices])

    def relabelled(self, labels: Sequence[int]) -> ImageSplit:
        """The same images with other class indices, one for each image."""
        return Subset(self, range(len(self)), labels)

    def counts(self, num_classes: int) -> list[int]:
        """Number of images of each class."""
        found = Counter(self.labels)
        return [found[label] for label in range(num_classes)]


class Subset(ImageSplit):
    """Some images of another split, possibly with other labels."""

    def __init__(self, base: ImageSplit, indices: Sequence[int], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self._base = base._base if isinstance(base, Subset) else base
        self._indices = [base._indices[i] for i in indices] if isinstance(base, Subset) else list(indices)

    def key(self, i: int) -> str:
        """The key that the whole split has for it."""
        return self._base.key(self._indices[i])

    def content(self, i: int) -> bytes:
        """The bytes that the whole split has for it."""
        return self._base.content(self._indices[i])

    def load(self, i: int, *, at_least: int | None = None) -> Image.Image:
        """The image that the whole split has for it."""
        return self._base.load(self._indices[i], at_least=at_least)


class Joined(ImageSplit):
    """Several splits, one after the other."""

    def __init__(self, parts: Sequence[ImageSplit]) -> None:
        super().__init__([label for part in parts for label in part.labels])
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(map(len, parts)))

    def key(self, i: int) -> str:
        """The key in its part."""
        part, position = self._place(i)
        return part.key(position)

    def content(self, i: int) -> bytes:
        """The bytes in its part."""
        part, position = self._place(i)
        return part.content(position)

    def load(self, i: int, *, at_least: int | None = None) -> Image.Image:
        """The image in its part."""
        part, position = self._place(i)
        return part.load(position, at_least=at_least)

    def _place(self, i: int) -> tuple[ImageSplit, int]:
        which = bisect.bisect_right(self._ends, i)
        return self._parts[which], i - self._ends[which] + len(self._parts[which])


class FileSplit(ImageSplit):
    """Image files below one folder.

    Args:
        root: the folder.
        keys: paths of the files relative to it, with forward slashes.
    """

    def __init__(self, root: Path, keys: Sequence[str], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self._root = root
        self._keys = list(keys)

    def key(self, i: int) -> str:
        """Path relative to the folder."""
        return self._keys[i]

    def content(self, i: int) -> bytes:
        """The bytes of the file."""
        return read_file(self._root / self._keys[i], name=self._keys[i])


class MemorySplit(ImageSplit):
    """Small images that are held in memory as the bytes of image files."""

    def __init__(self, keys: Sequence[str], contents: Sequence[bytes], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self._keys = list(keys)
        self._contents = list(contents)

    def key(self, i: int) -> str:
        """The given key."""
        return self._keys[i]

    def content(self, i: int) -> bytes:
        """The given bytes."""
        return self._contents[i]


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images, split for training and validation, with what cannot be used already left out."""

    name: str
    source: str
    classes: tuple[str, ...]
    train: ImageSplit
    val: ImageSplit
    split_rule: str
    """How the two parts came about, such as `"folders train/ and val/"` or `"stratified 80/20, seed 0"`."""
    problems: tuple[Problem, ...]
    checked: int
    """Images that were looked at."""
    fingerprint: str
    """SHA-256 over the sorted (key, class, SHA-256 of the content) of every image that is used."""
    typical_size: int
    """Median short side of the images, in pixels."""

    def summary(self) -> dict[str, Any]:
        """The content of `data.json`."""
        n = len(self.classes)
        return {
            "name": self.name,
            "source": self.source,
            "classes": list(self.classes),
            "counts": {"train": self.train.counts(n), "val": self.val.counts(n)},
            "n_train": len(self.train),
            "n_val": len(self.val),
            "split_rule": self.split_rule,
            "fingerprint": self.fingerprint,
            "typical_size": self.typical_size,
            "checked": self.checked,
            "problems": [asdict(problem) for problem in self.problems],
        }
