"""Batches, the same ones whatever the number of processes, and from any point of an epoch.

The order of an epoch is a function of (seed, epoch); the variation of an image a function of (seed, epoch,
index). The sampler hands (epoch, index) to whichever process loads the image, so nothing depends on a
process's own random state, and training that stops within an epoch continues with the very next image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.data.cache import PixelCache, default_cache_bytes, fill_cache, prepare
from pocketvit.data.splits import ImageSplit, Problem
from pocketvit.data.transforms import Transform

__all__ = ["ImageLoader", "TrainSampler", "make_loader"]

_DRAWS = 16  # images tried in place of a damaged one before giving up

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class TrainSampler(Sampler[tuple[int, int]]):
    """A new order of `n` images in every epoch, from any position in it; yields (epoch, index).

    Args:
        n: images.
        seed: with the epoch it decides the order, and the variation of every image.
        epoch: the epoch that the next iteration goes through.
        start: images of that epoch to leave out, because they were used before a stop.
    """

    def __init__(self, n: int, *, seed: int, epoch: int = 0, start: int = 0) -> None:
        self.n = n
        self.seed = seed
        self.set_epoch(epoch, start=start)

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Go to another epoch, or to a position in one."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = torch.randperm(self.n, generator=torch.Generator().manual_seed(_mix(self.seed, epoch)))
        return ((epoch, index) for index in order[self.start :].tolist())

    def __len__(self) -> int:
        return max(self.n - self.start, 0)


class ImageLoader:
    """Iterates over (images (B, 3, S, S) float32, labels (B,) int64, indices (B,) int64 into the split).

    Attributes:
        cached: whether the decoded pixels are kept in memory.
        replaced: images that could not be decoded during training, each once.
        replacements: how many times another image took the place of one.
    """

    def __init__(self, loader: DataLoader[_Sample], sampler: TrainSampler | None, *, cached: bool) -> None:
        self._loader = loader
        self.sampler = sampler
        self.cached = cached
        self.replaced: list[Problem] = []
        self.replacements = 0

    def __len__(self) -> int:
        """Batches of the next iteration."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the sampler's epoch, or all images in order when there is no sampler.

        Raises:
            DamagedImageError: without a sampler (evaluation), an image cannot be decoded.
            DataError: with one (training), nothing can be found in the place of a damaged image.
        """
        for samples in self._loader:
            self._note(samples.problems)
            if samples.failure is not None:
                # A new one: raising the one that `samples` holds would tie this frame, and with it the
                # loader's processes, into a cycle, and ending them by garbage collection takes five seconds.
                raise type(samples.failure)(samples.failure.message, fix=samples.failure.fix)
            yield samples.images, samples.labels, samples.indices

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Let the next iteration go through `epoch`, leaving out its first `start` images."""
        if self.sampler is None:
            raise TypeError("This loader has no sampler: it goes through all images in order.")
        self.sampler.set_epoch(epoch, start=start)

    def _note(self, problems: Sequence[Problem]) -> None:
        self.replacements += len(problems)
        self.replaced += [problem for problem in dict.fromkeys(problems) if problem not in self.replaced]


def make_loader(
    split: ImageSplit,
    transform: Transform,
    *,
    batch_size: int,
    sampler: TrainSampler | None = None,
    workers: int = 0,
    cache_bytes: int | None = None,
    pin_memory: bool = False,
) -> ImageLoader:
    """Batches of `split`.

    Args:
        sampler: for training: shuffles, and leaves out the last batch of an epoch when it is not full (unless
            it is the only one). None, for evaluation: every image once, in order.
        workers: processes that load; 0 loads in this one.
        cache_bytes: most memory for decoded pixels; None is a quarter of what is free, 0 keeps none. They are
            decoded now, before any process is started, if all fit.
        pin_memory: page-locked batches, for faster copies to a GPU.
    """
    limit = default_cache_bytes() if cache_bytes is None else cache_bytes
    cache = fill_cache(split, transform, limit=limit) if limit else None
    images = _Images(split, transform, cache)
    loader: DataLoader[_Sample] = DataLoader(
        images if sampler is None else _VariedImages(images, sampler.seed),
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=sampler is not None and len(split) >= batch_size,
        collate_fn=_collate,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # unused, but without one the global generator would be advanced
    )
    return ImageLoader(loader, sampler, cached=cache is not None)


@dataclass(frozen=True)
class _Sample:
    image: torch.Tensor | None  # None: see `failure`
    label: int
    index: int
    problems: tuple[Problem, ...] = ()
    failure: DataError | None = None


@dataclass(frozen=True)
class _Samples:
    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    problems: tuple[Problem, ...]
    failure: DataError | None

    def pin_memory(self) -> _Samples:
        """Called by the loader when it is to pin memory."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            indices=self.indices.pin_memory(),
        )


class _Images(Dataset[_Sample]):
    """Image `index`, the same every time."""

    def __init__(self, split: ImageSplit, transform: Transform, cache: PixelCache | None) -> None:
        self.split = split
        self.transform = transform
        self._cache = cache

    def __len__(self) -> int:
        return len(self.split)

    def pixels(self, index: int) -> torch.Tensor:
        """What the deterministic half of the transform makes of it: uint8 (3, h, w)."""
        return prepare(self.split, index, self.transform) if self._cache is None else self._cache[index]

    def __getitem__(self, index: int) -> _Sample:
        label = self.split.labels[index]
        try:
            return _Sample(self.transform.finish(self.pixels(index)), label, index)
        except DamagedImageError as error:  # as a value: raised in another process it would lose its type
            return _Sample(None, label, index, failure=error)


class _VariedImages(Dataset[_Sample]):
    """Image `index` as it is varied in `epoch`; a damaged one is replaced by one drawn anew."""

    def __init__(self, images: _Images, seed: int) -> None:
        self._images = images
        self._seed = seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: tuple[int, int]) -> _Sample:
        epoch, index = place
        seed = _mix(self._seed, epoch, index)
        split, problems = self._images.split, list[Problem]()
        for draw in range(_DRAWS):
            try:
                pixels = self._images.pixels(index)
            except DamagedImageError as error:
                problems.append(Problem.of(split.key(index), error))
                index = _mix(seed, draw) % len(split)
                continue
            with _seeded(seed):
                image = self._images.transform.finish(pixels)
            return _Sample(image, split.labels[index], index, tuple(problems))
        first = problems[0]
        failure = DataError(
            f"{_DRAWS} images in a row cannot be decoded, the first is {first.key}: {first.problem}.",
            fix="Check that the images are still there; `pocketvit doctor` lists what is damaged.",
        )
        return _Sample(None, 0, index, tuple(problems), failure)


def _collate(samples: Sequence[_Sample]) -> _Samples:
    images = [sample.image for sample in samples if sample.image is not None]
    return _Samples(
        images=torch.stack(images) if images else torch.empty(0),
        labels=torch.tensor([sample.label for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        problems=tuple(problem for sample in samples for problem in sample.problems),
        failure=next((sample.failure for sample in samples if sample.failure is not None), None),
    )


def _mix(*numbers: int) -> int:
    """A well-spread 63-bit seed, different for different numbers."""
    text = "/".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Let torch's CPU generator start from `seed`, and put it back afterwards."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
