"""The interface of a task: what the training loop and the evaluation ask of it, and nothing more."""

from __future__ import annotations

from typing import Protocol, TypeVar

from torch import Tensor

__all__ = ["Metrics", "Score", "Task"]

ResultT = TypeVar("ResultT")
ScoreT = TypeVar("ScoreT", bound="Score", covariant=True)


class Score(Protocol):
    """What a metric comes down to when one network has to be called better than another."""

    @property
    def value(self) -> float:
        """Higher is better."""
        ...

    @property
    def loss(self) -> float:
        """Mean loss; decides between equal values."""
        ...


class Metrics(Protocol[ScoreT]):
    """Collects outputs batch by batch."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        ...

    def compute(self) -> ScoreT:
        """The result over all batches added so far."""
        ...


class Task(Protocol[ResultT, ScoreT]):
    """A task: loss, decoding, metrics."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to minimise."""
        ...

    def decode(self, outputs: Tensor) -> list[ResultT]:
        """One result per image."""
        ...

    def metrics(self) -> Metrics[ScoreT]:
        """Fresh metrics."""
        ...
