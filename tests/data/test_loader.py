from __future__ import annotations

import pytest
import torch

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.data.loader import TrainSampler, make_loader
from pocketvit.data.splits import MemorySplit
from pocketvit.data.transforms import Augmentation, eval_transform, train_transform

N = 23

# Two processes on a machine with one core are meant here.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")


@pytest.fixture
def contents(encoded, picture):
    return [encoded(picture(i, (30 + i, 40))) for i in range(N)]


@pytest.fixture
def split(contents):
    return MemorySplit([f"{i}.png" for i in range(N)], contents, [i % 3 for i in range(N)])


@pytest.fixture
def augmented(pre):
    return train_transform(pre, Augmentation(erase=0.5))


def training(split, transform, *, seed=0, workers=0, cache_bytes=None, epoch=0, start=0):
    sampler = TrainSampler(len(split), seed=seed, epoch=epoch, start=start)
    return make_loader(
        split, transform, batch_size=4, sampler=sampler, workers=workers, cache_bytes=cache_bytes
    )


def same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others) > 0
    return all(
        torch.equal(x, y)
        for one, other in zip(batches, others, strict=True)
        for x, y in zip(one, other, strict=True)
    )


def test_sampler_shuffles_by_seed_and_epoch():
    orders = {
        (seed, epoch): [index for _, index in TrainSampler(50, seed=seed, epoch=epoch)]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4


def test_sampler_starts_anywhere():
    sampler = TrainSampler(50, seed=3, epoch=2)
    whole = list(sampler)
    sampler.set_epoch(2, start=20)
    assert len(sampler) == 30
    assert list(sampler) == whole[20:]
    sampler.set_epoch(2, start=50)
    assert (len(sampler), list(sampler)) == (0, [])
    assert {epoch for epoch, _ in whole} == {2}


def test_evaluation_is_every_image_in_order(split, pre, picture):
    transform = eval_transform(pre)
    images, labels, indices = map(torch.cat, zip(*make_loader(split, transform, batch_size=4), strict=True))
    assert indices.tolist() == list(range(N))
    assert labels.tolist() == split.labels
    assert (images.shape, images.dtype, labels.dtype) == ((N, 3, 24, 24), torch.float32, torch.int64)
    assert torch.equal(images[7], transform(picture(7, (37, 40))))


def test_training_leaves_out_the_last_batch_that_is_not_full(split, augmented):
    loader = training(split, augmented)
    batches = list(loader)
    assert len(loader) == len(batches) == N // 4
    assert {len(images) for images, _, _ in batches} == {4}
    for _, labels, indices in batches:
        assert labels.tolist() == [split.labels[i] for i in indices]


def test_training_on_less_than_a_batch(split, augmented):
    loader = make_loader(split, augmented, batch_size=100, sampler=TrainSampler(N, seed=0))
    assert [len(images) for images, _, _ in loader] == [N]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_workers_and_cache_change_nothing(split, augmented, pre, workers, cache_bytes):
    reference = training(split, augmented, cache_bytes=0)
    loader = training(split, augmented, workers=workers, cache_bytes=cache_bytes)
    assert loader.cached == (cache_bytes is None)
    assert same(reference, loader)
    reference.set_epoch(1)
    loader.set_epoch(1)  # the same processes go on
    assert same(reference, loader)
    kept, fresh = (
        make_loader(split, eval_transform(pre), batch_size=5, workers=workers, cache_bytes=size)
        for size in (cache_bytes, 0)
    )
    assert same(kept, fresh)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stop_within_an_epoch_changes_nothing(split, augmented, workers):
    whole = list(training(split, augmented, epoch=3))
    for done in (1, 3):
        rest = training(split, augmented, epoch=3, start=4 * done, workers=workers)
        assert len(rest) == len(whole) - done
        assert same(whole[done:], rest)


def test_leaving_an_epoch_early_changes_nothing(split, augmented):
    loader = training(split, augmented, workers=1)
    next(iter(loader))
    loader.set_epoch(1)
    assert same(loader, training(split, augmented, epoch=1))


def test_variation_depends_on_seed_epoch_and_image(split, augmented):
    def by_index(**options):
        return {
            int(i): x
            for images, _, indices in training(split, augmented, **options)
            for x, i in zip(images, indices, strict=True)
        }

    first, other_epoch, other_seed = by_index(), by_index(epoch=1), by_index(seed=1)
    for other in (other_epoch, other_seed):
        common = first.keys() & other.keys()
        assert len(common) > 10
        assert sum(torch.equal(first[i], other[i]) for i in common) <= 1


def test_copies_of_an_image_are_varied_differently(contents, augmented):
    split = MemorySplit([str(i) for i in range(8)], contents[:1] * 8, [0] * 8)
    images = torch.cat([images for images, _, _ in training(split, augmented)])
    assert len({image.numpy().tobytes() for image in images}) >= 7


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generator_is_left_alone(split, augmented, workers):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    list(training(split, augmented, workers=workers))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_a_damaged_image_is_replaced_counted_and_listed(contents, augmented, workers, cache_bytes):
    contents[5] = contents[5][:80]
    contents[6] = b""
    split = MemorySplit([f"{i}.png" for i in range(N)], contents, [i % 3 for i in range(N)])
    loader = training(split, augmented, workers=workers, cache_bytes=cache_bytes)
    seen = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        for images, labels, indices in loader:
            assert torch.isfinite(images).all()
            assert labels.tolist() == [split.labels[i] for i in indices]
            seen += indices.tolist()
    assert len(seen) == 4 * 20
    assert not {5, 6} & set(seen)
    assert sorted(problem.key for problem in loader.replaced) == ["5.png", "6.png"]
    assert "it is cut short" in next(p.problem for p in loader.replaced if p.key == "5.png")
    assert loader.replacements >= 6
    loader.set_epoch(2)
    assert same(loader, training(split, augmented, epoch=2))


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_never_replaces(contents, pre, workers):
    contents[9] = b"text"
    split = MemorySplit([f"{i}.png" for i in range(N)], contents, [0] * N)
    loader = make_loader(split, eval_transform(pre), batch_size=4, workers=workers)
    with pytest.raises(DamagedImageError, match=r"^9\.png: it is text, not an image$"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_damaged_images(augmented, workers):
    split = MemorySplit([f"{i}.png" for i in range(8)], [b""] * 8, [0] * 8)
    with pytest.raises(DataError, match="in a row cannot be decoded"):
        list(training(split, augmented, workers=workers))


def test_an_epoch_needs_a_sampler(split, pre):
    with pytest.raises(TypeError, match="no sampler"):
        make_loader(split, eval_transform(pre), batch_size=4).set_epoch(1)


def test_decoding_happens_once(split, augmented, monkeypatch):
    loads = []
    real = MemorySplit.load
    monkeypatch.setattr(MemorySplit, "load", lambda self, i, **k: loads.append(i) or real(self, i, **k))
    loader = training(split, augmented)
    decoded = len(loads)
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    assert loader.cached
    assert len(loads) == decoded
