from __future__ import annotations

import errno
import os

import pytest

from pocketvit.core.errors import DataError
from pocketvit.data.readers.folder import read_folder


def keys(split):
    return [split.key(i) for i in range(len(split))]


def test_one_folder_per_class(folder):
    listing = read_folder(folder({"dog": 2, "cat": 3, "Bird": 1}))
    assert listing.name == "photos"
    assert listing.classes == ("Bird", "cat", "dog")
    assert listing.train.labels == [0, 1, 1, 1, 2, 2]
    assert keys(listing.train)[:2] == ["Bird/000.png", "cat/000.png"]
    assert listing.val is None


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "Val"])
def test_train_and_val(folder, val):
    listing = read_folder(folder({"train/cat": 2, "train/dog": 1, f"{val}/dog": 1}))
    assert listing.classes == ("cat", "dog")
    assert listing.train.labels == [0, 0, 1]
    assert listing.val.labels == [1]
    assert keys(listing.val) == [f"{val}/dog/000.png"]
    assert listing.rule == f"folders train/ and {val}/"


def test_val_is_preferred_to_test(folder):
    listing = read_folder(folder({"train/a": 1, "train/b": 1, "val/a": 1, "test/a": 1, "test/b": 1}))
    assert listing.rule == "folders train/ and val/"


def test_train_alone_is_split_later(folder):
    listing = read_folder(folder({"train/a": 2, "train/b": 1}))
    assert listing.classes == ("a", "b")
    assert listing.val is None
    assert keys(listing.train)[0] == "train/a/000.png"


def test_a_class_may_be_called_train(folder):
    assert read_folder(folder({"bus": 1, "car": 1, "train": 1})).classes == ("bus", "car", "train")


def test_images_in_nested_folders(folder):
    listing = read_folder(folder({"cat/2023/june": 2, "cat": 1, "dog/x": 1}))
    assert listing.classes == ("cat", "dog")
    assert keys(listing.train) == [
        "cat/000.png",
        "cat/2023/june/000.png",
        "cat/2023/june/001.png",
        "dog/x/000.png",
    ]


def test_what_is_hidden_or_no_image_is_ignored(folder):
    root = folder({"cat": 1, "dog": 1, ".git": 1, "__MACOSX": 1, "cat/.thumbs": 1})
    for name in ("LICENSE", "cat/notes.txt", "cat/.DS_Store", "cat/._000.png", "loose.jpg"):
        (root / name).write_text("x")
    listing = read_folder(root)
    assert keys(listing.train) == ["cat/000.png", "dog/000.png"]
    assert set(listing.ignored) == {"LICENSE", "cat/notes.txt", "loose.jpg"}


def test_endings_in_capitals_and_linked_folders(folder, tmp_path, encoded):
    root = folder({"cat": 1})
    outside = folder({"dogs": 1}, tmp_path / "elsewhere")
    (outside / "dogs/1.JPG").write_bytes(encoded(9, "JPEG"))
    (root / "dog").symlink_to(outside / "dogs")
    assert keys(read_folder(root).train) == ["cat/000.png", "dog/000.png", "dog/1.JPG"]


def test_a_class_folder_without_images_is_left_out_and_listed(folder):
    root = folder({"cat": 1, "dog": 1, "eel": 0})
    listing = read_folder(root)
    assert listing.classes == ("cat", "dog")
    assert [problem.key for problem in listing.problems] == ["eel/"]


def test_no_images(folder):
    with pytest.raises(DataError, match="There are no images below") as caught:
        read_folder(folder({"cat": 0}))
    assert "one folder per class" in caught.value.fix


def test_images_without_class_folders(folder):
    with pytest.raises(DataError, match="3 images but no class folders"):
        read_folder(folder({".": 3}))


def test_one_class(folder):
    with pytest.raises(DataError, match="only one class, 'cat'"):
        read_folder(folder({"cat": 2}))


def test_the_classes_are_one_folder_further_down(folder):
    root = folder({"photos-v2/cat": 1, "photos-v2/dog": 1})
    with pytest.raises(DataError, match="only one class") as caught:
        read_folder(root)
    assert caught.value.fix == f"Did you mean {root / 'photos-v2'}?"


def test_a_class_of_val_is_not_in_train(folder):
    with pytest.raises(DataError, match=r"1 class without images in .*train: fox"):
        read_folder(folder({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/fox": 1}))


def test_an_empty_val(folder):
    with pytest.raises(DataError, match=r"val holds no images"):
        read_folder(folder({"train/cat": 1, "train/dog": 1, "val/cat": 0}))


def test_a_folder_that_may_not_be_read(folder, monkeypatch):
    root = folder({"cat": 1, "dog": 1})
    real = os.scandir

    def refuse(path="."):
        if str(path).endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the administrator, who may run this, is never refused
    with pytest.raises(DataError, match=r"dog cannot be read: Permission denied"):
        read_folder(root)
