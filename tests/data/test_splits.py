from __future__ import annotations

import pickle

import numpy as np
import pytest

from pocketvit.core.errors import DamagedImageError
from pocketvit.data.splits import FileSplit, Joined, MemorySplit, Problem


@pytest.fixture
def memory(encoded):
    return MemorySplit(["a", "b", "c", "d"], [encoded(i) for i in range(4)], [0, 1, 0, 2])


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_split_gives_key_label_content_and_image(memory, picture, encoded):
    assert len(memory) == 4
    assert memory.key(2) == "c"
    assert memory.labels == [0, 1, 0, 2]
    assert memory.content(2) == encoded(2)
    assert same(memory.load(2), picture(2))
    assert memory.counts(4) == [2, 1, 1, 0]


def test_subsets_of_subsets(memory, picture):
    part = memory.subset([3, 1, 0]).subset([2, 0])
    assert [part.key(i) for i in range(2)] == ["a", "d"]
    assert part.labels == [0, 2]
    assert same(part.load(1), picture(3))
    assert part.content(0) == memory.content(0)


def test_relabelled_keeps_the_images(memory):
    other = memory.subset([1, 3]).relabelled([7, 8])
    assert other.labels == [7, 8]
    assert [other.key(i) for i in range(2)] == ["b", "d"]
    assert other.subset([1]).labels == [8]


def test_joined(memory, picture):
    joined = Joined([memory.subset([1]), memory.subset([]), memory.subset([3, 2])])
    assert joined.labels == [1, 2, 0]
    assert [joined.key(i) for i in range(3)] == ["b", "d", "c"]
    assert same(joined.load(2), picture(2))
    assert joined.content(0) == memory.content(1)


def test_a_damaged_image_is_named_once(tmp_path, encoded):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.png").write_bytes(encoded(0)[:60])
    split = FileSplit(tmp_path, ["cat/1.png", "cat/2.png"], [0, 0])
    with pytest.raises(DamagedImageError, match=r"^cat/1\.png: it is cut short") as caught:
        split.load(0)
    assert Problem.of("cat/1.png", caught.value).problem.startswith("it is cut short")
    with pytest.raises(DamagedImageError, match=r"^cat/2\.png: there is no such file"):
        split.load(1)


def test_files_are_read_late_and_pickle_small(tmp_path):
    split = FileSplit(tmp_path, [f"{i}.png" for i in range(1000)], [0] * 1000)
    copy = pickle.loads(pickle.dumps(split.subset(range(500))))
    assert len(pickle.dumps(split)) < 30_000
    assert copy.key(499) == "499.png"
