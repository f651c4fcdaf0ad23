"""A folder of images: `train/` and `val/` with a folder per class in each, or one folder per class.

Images of a class may lie in folders below it. Hidden files and files that are not images by their suffix are
ignored. Classes are sorted by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pocketvit.core.errors import DataError
from pocketvit.data.decode import IMAGE_SUFFIXES
from pocketvit.data.readers.listing import Listing
from pocketvit.data.splits import FileSplit, Problem

__all__ = ["VAL_NAMES", "read_folder"]

VAL_NAMES = ("val", "valid", "validation", "test")


def read_folder(root: Path) -> Listing:
    """The images below `root`.

    Raises:
        DataError: no images, fewer than two classes, a class of val that is not in train, or a folder
            that may not be read.
    """
    folders = {folder.name.lower(): folder for folder in _subfolders(root)}
    val_name = next((name for name in VAL_NAMES if name in folders), None)
    if "train" in folders and val_name is not None:
        return _read_parts(root, folders["train"], folders[val_name])
    if set(folders) == {"train"}:
        return _read_classes(root, folders["train"])
    return _read_classes(root, root)


def _read_parts(root: Path, train: Path, val: Path) -> Listing:
    train_files, train_other = _class_files(train)
    val_files, val_other = _class_files(val)
    _require_classes(root, train, train_files)
    classes = sorted(name for name, files in train_files.items() if files)
    foreign = sorted(name for name, files in val_files.items() if files and name not in classes)
    if foreign:
        raise DataError(
            f"{val} has {_count(foreign, 'class', 'classes')} without images in {train}: "
            f"{', '.join(foreign[:5])}.",
            fix="Every class of the validation part needs images in the training part, under the same name.",
        )
    if not any(val_files.values()):
        raise DataError(
            f"{val} holds no images in class folders.",
            fix=f"Put images in {val}/<class>/, or remove the folder: then part of {train} is set aside.",
        )
    return Listing(
        name=root.name,
        classes=tuple(classes),
        train=_split(root, train_files, classes),
        val=_split(root, val_files, classes),
        rule=f"folders {train.name}/ and {val.name}/",
        problems=_empty(root, train, train_files),
        ignored=_relative(root, train_other + val_other),
    )


def _read_classes(root: Path, base: Path) -> Listing:
    files, other = _class_files(base)
    _require_classes(root, base, files)
    classes = sorted(name for name, found in files.items() if found)
    return Listing(
        name=root.name,
        classes=tuple(classes),
        train=_split(root, files, classes),
        val=None,
        problems=_empty(root, base, files),
        ignored=_relative(root, other),
    )


def _require_classes(root: Path, base: Path, files: dict[str, list[Path]]) -> None:
    found = sorted(name for name, paths in files.items() if paths)
    if len(found) > 1:
        return
    fix = "Make one folder per class with its images inside: photos/cat/01.jpg, photos/dog/01.jpg."
    for folder in _subfolders(base):
        if sum(bool(paths) for paths in _class_files(folder)[0].values()) > 1:
            fix = f"Did you mean {folder}?"
    if found:
        raise DataError(f"{base} has images of only one class, '{found[0]}'; two are needed.", fix=fix)
    loose = sum(_is_image(path) for path in base.iterdir())
    if loose:
        raise DataError(f"{base} has {_count(range(loose), 'image')} but no class folders.", fix=fix)
    raise DataError(f"There are no images below {root}.", fix=fix)


def _class_files(base: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """The images of each class folder of `base`, and the other files below it."""
    images: dict[str, list[Path]] = {}
    other = [path for path in base.iterdir() if path.is_file() and not path.name.startswith(".")]
    for folder in _subfolders(base):
        files = list(_walk(folder))
        images[folder.name] = [path for path in files if _is_image(path)]
        other += [path for path in files if not _is_image(path)]
    return images, other


def _walk(folder: Path) -> Iterator[Path]:
    for where, below, files in os.walk(folder, onerror=_refuse):
        below[:] = sorted(name for name in below if not _is_hidden(name))
        yield from (Path(where, name) for name in sorted(files) if not _is_hidden(name))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))
    except OSError as error:
        _refuse(error)
        raise


def _refuse(error: OSError) -> None:
    raise DataError(
        f"The folder {error.filename} cannot be read: {error.strerror}.",
        fix="Check its permissions (ls -ld) and run the command again.",
    ) from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _split(root: Path, files: dict[str, list[Path]], classes: list[str]) -> FileSplit:
    pairs = [(path, label) for label, name in enumerate(classes) for path in files.get(name, [])]
    return FileSplit(root, _relative(root, [path for path, _ in pairs]), [label for _, label in pairs])


def _relative(root: Path, paths: list[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(root).as_posix() for path in paths)


def _empty(root: Path, base: Path, files: dict[str, list[Path]]) -> tuple[Problem, ...]:
    names = sorted(name for name, paths in files.items() if not paths)
    return tuple(
        Problem(f"{(base / name).relative_to(root).as_posix()}/", "a class folder without images; left out")
        for name in names
    )


def _count(items: list[str] | range, one: str, many: str = "") -> str:
    return f"{len(items)} {one if len(items) == 1 else many or one + 's'}"
