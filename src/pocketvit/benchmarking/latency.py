"""How long one call takes: several candidates in turn, so that a drifting machine is fair to all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pocketvit.core.console import progress_bar

__all__ = ["Latency", "Schedule", "measure_latency", "plan"]

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], Any]

_ROUNDS = 10
_WARM_UP = 3  # untimed calls of each turn: caches, and the spinning threads of the session before
_MIN_PER_TURN, _MAX_PER_TURN = 2, 30


@dataclass(frozen=True)
class Schedule:
    """How the timed calls are arranged.

    Attributes:
        rounds: times that every candidate has its turn; every second round goes backwards.
        per_turn: timed calls of a turn, the same for all candidates.
        warmup: untimed calls before them.
    """

    rounds: int
    per_turn: int
    warmup: int

    @property
    def iterations(self) -> int:
        """Timed calls of each candidate."""
        return self.rounds * self.per_turn


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call.

    Attributes:
        p50_ms: median.
        p90_ms: nine calls in ten take no longer.
        min_ms: the fastest: what the code can do when nothing disturbs it.
    """

    p50_ms: float
    p90_ms: float
    min_ms: float

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Latency:
        """The statistics of single calls."""
        p50, p90 = np.percentile(seconds, (50, 90))
        return cls(*(round(float(value) * 1e3, 4) for value in (p50, p90, seconds.min())))


def plan(calls: Mapping[Key, Call], *, seconds: float) -> Schedule:
    """A schedule under which the slowest candidate is timed for about `seconds`.

    At least 20 timed calls each, at most 300: medians of fast candidates are stable long before that.
    """
    slowest = 0.0
    for call in calls.values():
        call()  # the first allocates memory
        slowest = max(slowest, min(_time(call) for _ in range(2)))
    fitting = int(seconds / (_ROUNDS * slowest)) - _WARM_UP
    return Schedule(rounds=_ROUNDS, per_turn=min(max(fitting, _MIN_PER_TURN), _MAX_PER_TURN), warmup=_WARM_UP)


def measure_latency(calls: Mapping[Key, Call], schedule: Schedule) -> dict[Key, Latency]:
    """Time every candidate, in turns; a progress bar is shown on a terminal."""
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls)
    with progress_bar() as bar:
        turns = bar.add_task("timing", total=schedule.rounds * len(order))
        for _ in range(schedule.rounds):
            for key in order:
                for _ in range(schedule.warmup):
                    calls[key]()
                seconds[key] += [_time(calls[key]) for _ in range(schedule.per_turn)]
                bar.advance(turns)
            order.reverse()
    return {key: Latency.of(np.array(found)) for key, found in seconds.items()}


def _time(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
