from __future__ import annotations

import pickle

import pytest
import torch

from pocketvit.core.errors import DamagedImageError
from pocketvit.data import cache as cache_module
from pocketvit.data.cache import default_cache_bytes, fill_cache, prepare
from pocketvit.data.splits import MemorySplit
from pocketvit.data.transforms import Augmentation, eval_transform, train_transform


@pytest.fixture
def split(encoded, picture):
    sizes = [(20 + i % 7, 60 - i % 11) for i in range(100)]
    contents = [encoded(picture(i, size), "JPEG") for i, size in enumerate(sizes)]
    contents[42] = contents[42][:-200]
    return MemorySplit([f"{i}.jpg" for i in range(100)], contents, [0] * 100)


@pytest.fixture(params=[7, 1024])
def page(request, monkeypatch):
    monkeypatch.setattr(cache_module, "_PAGE", request.param)


def test_what_comes_out_is_what_went_in(split, pre, page):
    for transform in (eval_transform(pre), train_transform(pre, Augmentation())):
        cache = fill_cache(split, transform, limit=10**8)
        for i in set(range(100)) - {42}:
            expected = prepare(split, i, transform)
            assert torch.equal(cache[i], expected)
            assert cache[i].stride() == expected.stride()  # so that what follows rounds in the same way
        with pytest.raises(DamagedImageError, match=r"^42\.jpg: it is cut short"):
            cache[42]


def test_a_copy_for_another_process(split, pre):
    cache = fill_cache(split, eval_transform(pre), limit=10**8)
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(copy[99], cache[99])


def test_too_large_for_the_limit(split, pre):
    transform = eval_transform(pre)
    needed = 99 * 3 * 24 * 24
    cache = fill_cache(split, transform, limit=needed + 3 * 24 * 24)
    assert cache is not None
    assert cache.nbytes == needed
    assert fill_cache(split, transform, limit=needed - 1) is None


def test_the_limit_holds_when_the_estimate_is_too_low(encoded, picture, pre, monkeypatch):
    monkeypatch.setattr(cache_module, "_PROBES", 1)
    monkeypatch.setattr(cache_module, "_PAGE", 2)
    contents = [encoded(picture(0, (2, 2)))] + [encoded(picture(i, (30, 30))) for i in range(1, 9)]
    split = MemorySplit(list("abcdefghi"), contents, [0] * 9)
    assert fill_cache(split, train_transform(pre, Augmentation()), limit=9 * 12 + 100) is None


def test_every_image_damaged(pre):
    cache = fill_cache(MemorySplit(["a", "b"], [b"", b""], [0, 0]), eval_transform(pre), limit=10**6)
    with pytest.raises(DamagedImageError):
        cache[1]


def test_default_is_part_of_the_free_memory():
    assert 10**6 < default_cache_bytes() < 10**15
