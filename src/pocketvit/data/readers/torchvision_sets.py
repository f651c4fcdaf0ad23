"""torchvision's classification data sets by name, downloaded on first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.core.names import unknown_name
from pocketvit.data.readers.listing import Listing
from pocketvit.data.readers.pnm import pnm_bytes
from pocketvit.data.splits import ImageSplit

__all__ = ["TORCHVISION_SETS", "TorchvisionSplit", "read_torchvision"]


@dataclass(frozen=True)
class _Parts:
    """Constructor arguments of the training part and, where the data set has one, of the validation part."""

    train: Mapping[str, Any]
    val: Mapping[str, Any] | None


_BY_FLAG = _Parts({"train": True}, {"train": False})
_TRAIN_TEST = _Parts({"split": "train"}, {"split": "test"})
_TRAIN_VAL = _Parts({"split": "train"}, {"split": "val"})
_WHOLE = _Parts({}, None)
_TINY = {"image_size": (3, 32, 32), "num_classes": 10}

TORCHVISION_SETS: Mapping[str, _Parts] = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "FashionMNIST": _BY_FLAG,
    "KMNIST": _BY_FLAG,
    "USPS": _BY_FLAG,
    "SVHN": _TRAIN_TEST,
    "STL10": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "Food101": _TRAIN_TEST,
    "Flowers102": _TRAIN_VAL,
    "DTD": _TRAIN_VAL,
    "FGVCAircraft": _TRAIN_VAL,
    "Imagenette": _TRAIN_VAL,
    "OxfordIIITPet": _Parts({"split": "trainval"}, {"split": "test"}),
    "EuroSAT": _WHOLE,
    "FakeData": _Parts({"size": 200, **_TINY}, {"size": 50, "random_offset": 200, **_TINY}),
}
_NO_DOWNLOAD = {"FakeData"}


def read_torchvision(name: str, *, root: Path) -> Listing:
    """The data set `name`.

    Args:
        root: where it is kept; it is downloaded when it is not there.

    Raises:
        UnknownNameError: it is not a classification data set of torchvision.
        DataError: it cannot be downloaded, or its files are damaged.
    """
    by_lower = {known.lower(): known for known in TORCHVISION_SETS}
    exact = by_lower.get(name.lower())
    if exact is None:
        known = f"Known: {', '.join(TORCHVISION_SETS)}."
        raise unknown_name("torchvision data set", name, by_lower, see=known)
    train = TorchvisionSplit(exact, "train", root)
    val = None if TORCHVISION_SETS[exact].val is None else TorchvisionSplit(exact, "val", root)
    return Listing(
        name=exact,
        classes=train.class_names(),
        train=train,
        val=val,
        rule="" if val is None else "torchvision's own",
    )


class TorchvisionSplit(ImageSplit):
    """One part of a torchvision data set; a pickled copy opens it again on first use."""

    def __init__(self, name: str, part: Literal["train", "val"], root: Path) -> None:
        self._name = name
        self._part: Literal["train", "val"] = part
        self._root = root
        self._opened: Any = _open_set(name, part, root, download=True)
        super().__init__(_labels(self._opened))

    def class_names(self) -> tuple[str, ...]:
        """The data set's own names; numbers when it has none."""
        names = getattr(self._opened, "classes", None)
        if names is None:
            return tuple(str(label) for label in range(max(self.labels) + 1))
        return tuple(
            name if isinstance(name, str) else str(name[0]) for name in names
        )  # the first of several

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def key(self, i: int) -> str:
        """Data set, part and index, such as `"CIFAR10-train#12"`."""
        return f"{self._name}-{self._part}#{i}"

    def content(self, i: int) -> bytes:
        """The decoded pixels; torchvision does not give the file."""
        return pnm_bytes(np.asarray(self.load(i)))

    def load(self, i: int, *, at_least: int | None = None) -> Image.Image:
        """The image as torchvision decodes it, as RGB; `at_least` has no effect."""
        if self._opened is None:
            self._opened = _open_set(self._name, self._part, self._root, download=False)
        try:
            image, _ = self._opened[i]
            return image.convert("RGB")
        except OSError as error:
            raise DamagedImageError(f"{self.key(i)}: {error}") from error


def _open_set(name: str, part: Literal["train", "val"], root: Path, *, download: bool) -> Any:
    from torchvision import datasets  # takes a second to import

    where = {} if name in _NO_DOWNLOAD else {"root": str(root), "download": download}
    arguments = getattr(TORCHVISION_SETS[name], part)
    try:
        return getattr(datasets, name)(**where, **arguments)
    except (OSError, RuntimeError) as error:  # urllib's are OSErrors, a wrong checksum is a RuntimeError
        raise DataError(
            f"torchvision's {name} is not in {root} and cannot be downloaded: {error}",
            fix=f"Connect to the network, or copy its files to {root} from a machine that is.",
        ) from error


def _labels(opened: Any) -> list[int]:
    """Class indices; torchvision's data sets keep them under different names."""
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(opened, attribute):
            return [int(label) for label in getattr(opened, attribute)]
    if hasattr(opened, "_samples"):
        return [int(label) for _, label in opened._samples]
    return [int(opened[i][1]) for i in range(len(opened))]
