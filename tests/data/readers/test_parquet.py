from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.data.readers import parquet
from pocketvit.data.readers.parquet import parquet_files, read_parquet


@pytest.fixture
def write(tmp_path, encoded):
    """Write images 0, 1, … with these labels into a parquet file."""

    def shard(name, labels, *, first=0, struct=False, column="label", metadata=None, kind=None):
        contents = [encoded(first + i) for i in range(len(labels))]
        images = [{"bytes": c, "path": f"{i}.png"} for i, c in enumerate(contents)] if struct else contents
        table = pa.table({"image": images, column: pa.array(labels, type=kind)})
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)
        return path

    return shard


def read(path):
    return read_parquet(path, parquet_files(path))


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("struct", [False, True])
def test_shards_become_train_and_val(write, tmp_path, picture, struct):
    write("train-00.parquet", [0, 1, 0, 1, 0], struct=struct)
    write("train-01.parquet", [1, 1], first=5, struct=struct)
    write("test-00.parquet", [0], first=7, struct=struct)
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    listing = read(tmp_path)
    assert listing.classes == ("cat", "dog")
    assert listing.rule == "parquet files train* and test*"
    assert listing.train.labels == [0, 1, 0, 1, 0, 1, 1]
    assert listing.val.labels == [0]
    assert [listing.train.key(i) for i in (0, 4, 5)] == [
        "train-00.parquet#0",
        "train-00.parquet#4",
        "train-01.parquet#0",
    ]
    assert all(same(listing.train.load(i), picture(i)) for i in range(7))
    assert same(listing.val.load(0), picture(7))


def test_one_file_without_names(write):
    path = write("birds.parquet", [12, 7, 12])
    listing = read(path)
    assert (listing.name, listing.classes, listing.train.labels, listing.val) == (
        "birds",
        ("7", "12"),
        [1, 0, 1],
        None,
    )


def test_text_labels(write):
    listing = read(write("a.parquet", ["dog", "cat", "dog"]))
    assert (listing.classes, listing.train.labels) == (("cat", "dog"), [1, 0, 1])


def test_dictionary_labels(write):
    listing = read(write("a.parquet", ["dog", "cat"], kind=pa.dictionary(pa.int8(), pa.string())))
    assert (listing.classes, listing.train.labels) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize(
    "names", [["cat", "dog"], {"0": "cat", "1": "dog"}, {"dog": 1, "cat": 0}, {"1": "dog", "0": "cat"}]
)
@pytest.mark.parametrize("labels", [[1, 0], ["dog", "cat"]])
def test_class_names_beside_the_file(write, tmp_path, names, labels):
    (tmp_path / "classes.json").write_text(json.dumps(names))
    listing = read(write("a.parquet", labels))
    assert (listing.classes, listing.train.labels) == (("cat", "dog"), [1, 0])


def test_class_names_that_hugging_face_stores(write):
    info = {"info": {"features": {"fine_label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    path = write("a.parquet", [1, 0], column="fine_label", metadata={"huggingface": json.dumps(info)})
    assert read(path).classes == ("cat", "dog")


def test_files_in_the_folder_data(write, tmp_path):
    write("data/train-00000-of-00001.parquet", [0, 1])
    write("data/validation-00000-of-00001.parquet", [0, 1])
    assert len(read(tmp_path).val) == 2


def test_a_copy_for_another_process_is_small_and_reads_again(write, picture):
    split = read(write("a.parquet", [0, 1] * 20)).train
    split.load(0)
    pickled = pickle.dumps(split)
    assert len(pickled) < 1000
    assert same(pickle.loads(pickled).load(39), picture(39))


def test_a_row_without_image_is_damaged(tmp_path, encoded):
    pq.write_table(pa.table({"image": [encoded(0), None], "label": [0, 1]}), tmp_path / "a.parquet")
    split = read(tmp_path / "a.parquet").train
    with pytest.raises(DamagedImageError, match=r"^a\.parquet#1: the row holds no image"):
        split.load(1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.png"], "label": [0]}, r"no column holds images.*image \(string\)"),
        ({"image": [b"x"], "score": [0.5]}, r"no column holds labels"),
        ({"left": [b"x"], "right": [b"x"], "label": [0]}, "several columns could hold images.*: left, right"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "row 1 has no label"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.parquet")


def test_a_label_without_name(write, tmp_path):
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(DataError, match="label 2 has no class name; there are 2 names"):
        read(write("a.parquet", [0, 2]))


@pytest.mark.parametrize("text", ["cat, dog", '"cat"', '{"zero": "cat"}'])
def test_names_that_are_none(write, tmp_path, text):
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match="does not hold class names"):
        read(write("a.parquet", [0, 1]))


def test_parts_that_are_not_train_and_val(write, tmp_path):
    write("train-0.parquet", [0, 1])
    write("extra-0.parquet", [0, 1])
    with pytest.raises(DataError, match="several parts"):
        read(tmp_path)


def test_damaged_parquet_files(write, tmp_path):
    path = write("a.parquet", [0, 1] * 30)
    content = path.read_bytes()
    path.write_bytes(content[:200])
    with pytest.raises(DataError, match="not a whole parquet file"):
        read(path)
    (tmp_path / "b.parquet").write_text("text")
    with pytest.raises(DataError, match="not a whole parquet file"):
        read(tmp_path / "b.parquet")
    path.write_bytes(content)
    write("b.parquet", [0, 1]).write_bytes(content[:200])
    with pytest.raises(DataError, match=r"b\.parquet"):
        read(tmp_path)


def test_more_than_fits_into_memory(write, monkeypatch):
    split = read(write("a.parquet", [0, 1])).train

    class Memory:
        available = 1000

    monkeypatch.setattr(parquet.psutil, "virtual_memory", Memory)
    with pytest.raises(DataError, match="of memory"):
        split.load(0)
