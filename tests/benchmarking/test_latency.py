from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.benchmarking.latency import Latency, Schedule, measure_latency, plan


@given(st.lists(st.floats(1e-6, 1), min_size=1))
def test_statistics_are_ordered(seconds: list[float]) -> None:
    found = Latency.of(np.array(seconds))
    assert 0 <= found.min_ms <= found.p50_ms <= found.p90_ms


def test_statistics() -> None:
    found = Latency.of(np.arange(1, 12) / 1000)
    assert found == Latency(p50_ms=6, p90_ms=10, min_ms=1)


def test_candidates_take_turns_and_every_second_round_goes_backwards() -> None:
    calls: list[str] = []
    measure_latency(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        Schedule(rounds=3, per_turn=2, warmup=1),
    )
    assert "".join(calls) == "aaabbb" + "bbbaaa" + "aaabbb"


def test_only_calls_after_the_warm_up_count() -> None:
    durations = iter([0.05, 0.0, 0.0] * 2)
    found = measure_latency(
        {"a": lambda: time.sleep(next(durations))}, Schedule(rounds=2, per_turn=2, warmup=1)
    )
    assert found["a"].p90_ms < 50


def test_faster_is_faster() -> None:
    found = measure_latency(
        {"slow": lambda: time.sleep(0.01), "fast": lambda: time.sleep(0.001)},
        Schedule(rounds=3, per_turn=3, warmup=0),
    )
    assert 1 <= found["fast"].min_ms <= found["fast"].p50_ms < found["slow"].min_ms
    assert found["slow"].min_ms >= 10


def test_the_plan_is_bounded_by_the_slowest() -> None:
    calls = {"slow": lambda: time.sleep(0.01), "fast": lambda: None}
    schedule = plan(calls, seconds=1.0)
    assert 20 <= schedule.iterations <= 100
    assert schedule.rounds * (schedule.per_turn + schedule.warmup) * 0.01 <= 1.0


@pytest.mark.parametrize(("pause", "iterations"), [(0.05, 20), (0.0, 300)])
def test_the_plan_has_limits(pause: float, iterations: int) -> None:
    assert plan({"a": lambda: time.sleep(pause)}, seconds=0.1).iterations == iterations
