"""How long threads of torch wait for one another before they sleep."""

from __future__ import annotations

import os

__all__ = ["SPINS", "sleep_soon"]

SPINS = 3_000
"""Enough to cost nothing where no other program runs; with 1,000 training is slower there."""
_POLICY, _SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


def sleep_soon() -> None:
    """Let a thread that waits for another sleep after `SPINS` looks, unless the environment says otherwise.

    To be called before torch is loaded, as its thread pool on Linux, GNU's OpenMP, reads its settings then
    (libgomp manual, "GOMP_SPINCOUNT"). By itself it looks 300,000 times at the end of every parallel loop.
    Where a program of another terminal takes one of the cores, the thread that is waited for does not run in
    that time, and a training step takes dozens of times as long (`benchmarks/busy_cores.py`).
    """
    if _POLICY not in os.environ:
        os.environ.setdefault(_SPINS, str(SPINS))
