"""Exported files side by side: latency, memory, size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pocketvit.benchmarking.latency import measure_latency, plan
from pocketvit.benchmarking.memory import DEFINITION, peak_memory
from pocketvit.benchmarking.runtimes import Runtime
from pocketvit.core.console import progress_bar
from pocketvit.core.errors import CheckpointError
from pocketvit.core.machine import hardware, physical_cores, versions
from pocketvit.deployment.integer import OPERATORS_KEY, stated_runtime
from pocketvit.deployment.runtime import ExportedClassifier

__all__ = ["Contestant", "Role", "benchmark"]

Role = Literal["ours", "baseline"]

_MB = 10**6
_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A file to be measured.

    Attributes:
        name: for the table.
        role: what is judged, or what it is judged against.
        path: the file.
        resolution: height and width of its input, pixels.
        precision: as the file says: `float32`, `int8`, `w4a8`, `mixed`; kernels of integers are 8 bits wide
            for all. `integers` where a file only says that.
        macs: multiply-accumulates for one image.
        params: number of parameters.
        runtime: what runs it, a name in `RUNTIMES`.
    """

    name: str
    role: Role
    path: Path
    resolution: int
    precision: str
    macs: int
    params: int
    runtime: str = "onnxruntime"

    @classmethod
    def of_file(cls, path: Path, *, role: Role) -> Contestant:
        """A file written by pocketvit, with what it says about itself, in the runtime it was made for.

        Raises:
            CheckpointError: the file is missing, damaged, or not written by pocketvit.
        """
        file = ExportedClassifier.load(path, threads=1)
        try:
            macs, params = int(file.metadata["macs"]), int(file.metadata["params"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{path} does not say its MACs and parameters.", fix="Export it again."
            ) from error
        return cls(
            name=file.card.name,
            role=role,
            path=path,
            resolution=file.card.preprocessing.size,
            precision=_precision(file),
            macs=macs,
            params=params,
            runtime=stated_runtime(path) or "onnxruntime",
        )


def benchmark(
    contestants: Sequence[Contestant],
    *,
    threads: Sequence[int] | None = None,
    seconds: float = _SECONDS,
) -> dict[str, Any]:
    """Measure files at batch 1, all in one process and in turns; memory in a process for each.

    Only compare numbers of one result: another run may have met a busier machine.

    Args:
        threads: thread counts; by default one, and all physical cores.
        seconds: about how long the slowest file is timed at its slowest thread count.

    Returns:
        The content of `benchmark.json`: a row per file and thread count.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    load_before = os.getloadavg()[0]
    engines = {name: Runtime.load(name) for name in dict.fromkeys(c.runtime for c in contestants)}
    counts = sorted(set(threads or (1, physical_cores())))
    cells = [(contestant, count) for count in counts for contestant in contestants]
    calls = dict(enumerate(_call(engines[cell[0].runtime], *cell) for cell in cells))
    schedule = plan(calls, seconds=seconds)
    latencies = measure_latency(calls, schedule)
    calls.clear()  # frees the sessions, whose threads would disturb the next measurement
    with progress_bar() as bar:
        memory = [
            peak_memory(
                contestant.path, runtime=contestant.runtime, threads=count, size=contestant.resolution
            )
            for contestant, count in bar.track(cells, description="memory")
        ]
    return {
        "protocol": {
            "runtime": " and ".join(dict.fromkeys(engine.version for engine in engines.values())),
            "warmup": schedule.warmup,
            "iterations": schedule.iterations,
            "rounds": schedule.rounds,
            "interleaved": True,
            "batch": 1,
            "precision": " and ".join(dict.fromkeys(contestant.precision for contestant in contestants)),
            "memory": DEFINITION,
            "load_before": round(load_before, 2),
        },
        "hardware": hardware(),
        "versions": versions(),
        "rows": [
            {
                "name": contestant.name,
                "role": contestant.role,
                "resolution": contestant.resolution,
                "precision": contestant.precision,
                "runtime": contestant.runtime.partition("_")[0],
                "threads": count,
                **asdict(latencies[i]),
                "peak_memory_mb": round(memory[i] / _MB, 1),
                "macs": contestant.macs,
                "params": contestant.params,
                "bytes": contestant.path.stat().st_size,
            }
            for i, (contestant, count) in enumerate(cells)
        ],
    }


def _precision(file: ExportedClassifier) -> str:
    named = "precision" in file.metadata or OPERATORS_KEY not in file.metadata
    return file.card.precision if named else "integers"


def _call(engine: Runtime, contestant: Contestant, threads: int) -> Callable[[], Any]:
    size = contestant.resolution
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    return partial(engine.open_file(contestant.path, threads=threads), image)
