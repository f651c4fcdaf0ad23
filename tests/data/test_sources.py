from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketvit.core.errors import ConfigError, DataError
from pocketvit.data import open_images


def keys(split):
    return [split.key(i) for i in range(len(split))]


def test_digits():
    data = open_images("digits")
    assert (data.name, data.source, data.typical_size, data.checked) == ("digits", "digits", 8, 1797)
    assert len(data.train) + len(data.val) == 1797
    assert data.split_rule == "stratified 80/20, seed 0"
    counts = zip(data.train.counts(10), data.val.counts(10), strict=True)
    assert all(abs(val / (train + val) - 0.2) < 0.01 for train, val in counts)
    assert not set(keys(data.train)) & set(keys(data.val))


def test_a_folder_is_split_by_class_and_seed(folder):
    root = folder({"cat": 20, "dog": 10})
    data = open_images(root, val_fraction=0.3, seed=1)
    assert data.classes == ("cat", "dog")
    assert (data.train.counts(2), data.val.counts(2)) == ([14, 7], [6, 3])
    assert data.split_rule == "stratified 70/30, seed 1"
    again, other = open_images(root, val_fraction=0.3, seed=1), open_images(root, val_fraction=0.3, seed=2)
    assert keys(again.val) == keys(data.val) != keys(other.val)
    assert again.fingerprint == data.fingerprint == other.fingerprint


def test_a_folder_with_its_own_split(folder):
    data = open_images(folder({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 2}))
    assert (data.train.counts(2), data.val.counts(2)) == ([3, 3], [1, 2])
    assert data.split_rule == "folders train/ and val/"


def test_parquet(tmp_path, encoded):
    table = pa.table({"image": [encoded(i) for i in range(10)], "label": [0, 1] * 5})
    pq.write_table(table, tmp_path / "all.parquet")
    data = open_images(str(tmp_path / "all.parquet"))
    assert (len(data.train), len(data.val), data.typical_size) == (8, 2, 30)


def test_torchvision(tmp_path):
    data = open_images("torchvision:FakeData", data_root=tmp_path)
    assert (len(data.train), len(data.val), data.typical_size) == (200, 50, 32)


def test_summary_is_the_content_of_data_json(folder):
    root = folder({"cat": 30, "dog": 10})
    (root / "cat/000.png").write_bytes(b"")
    summary = open_images(root).summary()
    assert summary["counts"] == {"train": [23, 8], "val": [6, 2]}
    assert (summary["n_train"], summary["n_val"], summary["checked"]) == (31, 8, 40)
    assert summary["problems"] == [{"key": "cat/000.png", "problem": "it is empty (0 bytes)"}]
    assert summary["classes"] == ["cat", "dog"]
    assert set(summary) == {
        "name", "source", "classes", "counts", "n_train", "n_val", "split_rule", "fingerprint",
        "typical_size", "checked", "problems",
    }  # fmt: skip


def test_fingerprint_is_what_it_says(folder):
    root = folder({"cat": 2, "dog": 2})
    lines = sorted(
        f"{path.relative_to(root).as_posix()}\0{path.parent.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in root.rglob("*.png")
    )
    assert open_images(root).fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_fingerprint_notices_names_classes_and_content(folder, encoded):
    root = folder({"cat": 3, "dog": 3})
    before = open_images(root).fingerprint
    (root / "cat/000.png").write_bytes(encoded(77))
    changed = open_images(root).fingerprint
    (root / "cat/000.png").rename(root / "cat/a.png")
    renamed = open_images(root).fingerprint
    assert len({before, changed, renamed}) == 3


def test_exact_copies_are_never_on_both_sides(folder, encoded):
    root = folder({"cat": 12, "dog": 12})
    for i in range(12):
        (root / f"cat/copy-{i:03d}.png").write_bytes((root / f"cat/{i:03d}.png").read_bytes())
    for seed in range(5):
        data = open_images(root, seed=seed)
        sides = [{split.content(i) for i in range(len(split))} for split in (data.train, data.val)]
        assert not sides[0] & sides[1]


def test_limit_counts_all_images_and_keeps_the_split(folder):
    root = folder({"train/a": 60, "train/b": 20, "test/a": 15, "test/b": 5})
    data = open_images(root, limit=50)
    assert (data.train.counts(2), data.val.counts(2)) == ([30, 10], [8, 2])
    assert data.checked == 50
    assert data.split_rule == "folders train/ and test/, 50 images chosen with seed 0"
    assert keys(open_images(root, limit=50).train) == keys(data.train)
    assert keys(open_images(root, limit=50, seed=3).train) != keys(data.train)
    assert len(open_images(root, limit=10_000).train) == 80


def test_limit_without_a_split(folder):
    data = open_images(folder({"a": 40, "b": 20}), limit=30)
    assert (data.train.counts(2), data.val.counts(2)) == ([16, 8], [4, 2])


def test_limit_below_the_number_of_classes(folder):
    with pytest.raises(DataError, match="cannot hold 3 classes"):
        open_images(folder({"a": 4, "b": 2, "c": 2}), limit=2)


@pytest.mark.parametrize("limit", [0, -5])
def test_limit_that_is_no_count(folder, limit):
    with pytest.raises(ConfigError, match="limit"):
        open_images(folder({"a": 4, "b": 2}), limit=limit)


def test_damaged_images_are_left_out_and_listed(folder):
    root = folder({"cat": 20, "dog": 21})
    (root / "dog/004.png").write_bytes(b"")
    (root / "dog/005.png").unlink()
    (root / "dog/005.png").symlink_to("nowhere")
    data = open_images(root)
    assert {problem.key: problem.problem for problem in data.problems} == {
        "dog/004.png": "it is empty (0 bytes)",
        "dog/005.png": "broken link to nowhere",
    }
    assert data.checked == 41
    assert len(data.train) + len(data.val) == 39
    for split in (data.train, data.val):
        for i in range(len(split)):
            split.load(i)


def test_too_many_damaged_images(folder):
    root = folder({"cat": 10, "dog": 10})
    for i in range(7):
        (root / f"cat/00{i}.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"7 of 20 images .* \(35%; 5% is allowed\)") as caught:
        open_images(root)
    assert "cat/000.png: it is text, not an image" in caught.value.message
    assert "and 2 more" in caught.value.message
    assert "0.35" in caught.value.fix
    assert len(open_images(root, max_damaged=0.35).problems) == 7


def test_a_share_just_above_what_is_allowed_does_not_read_like_it(folder):
    root = folder({"cat": 10, "dog": 9})
    (root / "cat/000.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"1 of 19 images .* \(5\.3%; 5% is allowed\)"):
        open_images(root)


def test_without_check_damage_is_found_later(folder):
    root = folder({"cat": 5, "dog": 5})
    (root / "cat/001.png").write_bytes((root / "cat/001.png").read_bytes()[:100])
    data = open_images(root, check="none")
    assert data.problems == ()
    assert len(data.train) + len(data.val) == 10
    assert data.typical_size == 30


def test_a_class_without_usable_images_is_left_out(folder):
    root = folder({"ant": 1, "bee": 30, "cow": 30})
    (root / "ant/000.png").write_bytes(b"")
    data = open_images(root)
    assert data.classes == ("bee", "cow")
    assert [problem.key for problem in data.problems] == ["ant", "ant/000.png"]
    assert set(data.train.labels) == set(data.val.labels) == {0, 1}
    assert all(data.train.key(i).startswith(data.classes[label]) for i, label in enumerate(data.train.labels))


def test_only_one_class_is_usable(folder):
    root = folder({"ant": 1, "bee": 30})
    (root / "ant/000.png").write_bytes(b"")
    with pytest.raises(DataError, match="only 'bee'"):
        open_images(root)


def test_a_class_of_val_loses_all_its_training_images(folder):
    root = folder({"train/a": 30, "train/b": 30, "train/c": 1, "val/c": 1})
    (root / "train/c/000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"without a usable image for training: c"):
        open_images(root)


def test_one_image_per_class(folder):
    with pytest.raises(DataError, match="single image"):
        open_images(folder({"a": 1, "b": 1}))


def test_nothing_there(folder, tmp_path):
    folder({"cat": 1})
    with pytest.raises(DataError, match="There is nothing at") as caught:
        open_images(tmp_path / "fotos")
    assert caught.value.fix == f"Did you mean {tmp_path / 'photos'}?"
    with pytest.raises(DataError) as caught:
        open_images("digit")
    assert caught.value.fix == "Did you mean digits?"
    with pytest.raises(DataError) as caught:
        open_images(tmp_path / "deep/below/nothing")
    assert "torchvision:NAME" in caught.value.fix


def test_a_broken_link(tmp_path):
    (tmp_path / "photos").symlink_to("nowhere")
    with pytest.raises(DataError, match="broken link"):
        open_images(tmp_path / "photos")


def test_a_file_that_is_no_data_set(tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="is a file"):
        open_images(tmp_path / "photos.zip")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_share_for_validation(fraction):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        open_images("digits", val_fraction=fraction)


def test_relative_folders_survive_a_change_of_directory(folder, tmp_path, monkeypatch):
    root = folder({"a": 2, "b": 2})
    monkeypatch.chdir(tmp_path)
    data = open_images(root.name)
    monkeypatch.chdir("/")
    assert np.asarray(data.train.load(0)).shape == (30, 40, 3)


def test_typical_size_is_the_median_short_side(folder, encoded, picture):
    root = folder({"a": 0, "b": 0})
    for i, side in enumerate([10, 20, 50, 60, 70]):
        (root / "ab"[i % 2] / f"{i}.png").write_bytes(encoded(picture(i, (side, 90))))
    assert open_images(root, val_fraction=0.4).typical_size == 50


def test_labels_of_a_split_follow_its_images(folder):
    data = open_images(folder({"a": 9, "b": 7, "c": 5}))
    for split in (data.train, data.val):
        assert Counter(data.classes[label] for label in split.labels) == Counter(
            split.key(i).split("/")[0] for i in range(len(split))
        )
