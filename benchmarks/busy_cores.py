"""What another busy program costs a training step, by how long torch's threads spin before they sleep.

    python benchmarks/busy_cores.py [--model mobilevitv2_050] [--spins 300000 3000 1000] [--repeats 3]

Each measurement is a process of its own, as torch's thread pool reads its settings when it is loaded, and is
made alone and beside a program that only counts, in a session of its own: Linux shares out time among
sessions first, so a program of the same terminal is in the way far less. The order goes around `repeats`
times, and a row is the median. A last setting is one thread, which waits for nobody. 300,000 is what GNU's
OpenMP does by itself and 3,000 what the command line asks for (`pocketvit.core.threads`). Writes
benchmarks/results/busy_cores.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware, physical_cores, versions
from pocketvit.core.threads import SPINS

HERE = Path(__file__).parent
OUT = HERE / "results" / "busy_cores.json"
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Of the environment, which a measurement does not take over."""


def main(arguments: list[str] | None = None) -> None:
    """Measure everything and write the result."""
    args = parse_arguments(arguments)
    settings = [(spins, args.threads) for spins in args.spins] + [(None, 1)]
    found: dict[tuple[int | None, int, int], list[float]] = defaultdict(list)
    for _, neighbours, (spins, threads) in product(range(args.repeats), (0, 1), settings):
        with busy(neighbours):
            found[spins, threads, neighbours].append(milliseconds(spins, threads, args))
    rows = [
        {"spins": spins, "threads": threads, "busy_programs": neighbours, "step_ms": statistics.median(times)}
        for (spins, threads, neighbours), times in found.items()
    ]
    for row in rows:
        print(row)
    protocol = {
        "model": args.model,
        "size": args.size,
        "batch_size": args.batch_size,
        "steps": args.steps,
        "repeats": args.repeats,
        "seed": args.seed,
    }
    write_json(args.out, {"protocol": protocol, "rows": rows, "hardware": hardware(), "versions": versions()})


@contextmanager
def busy(programs: int) -> Generator[None]:
    """So many programs that each keep a core busy, as another terminal's would."""
    count = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(count, start_new_session=True) for _ in range(programs)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def milliseconds(spins: int | None, threads: int, args: argparse.Namespace) -> float:
    """The median step of a process with these settings."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    if spins is not None:
        environment["GOMP_SPINCOUNT"] = str(spins)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "throughput.json"
        options = {
            "device": "cpu",
            "alone": args.model,
            "size": args.size,
            "batch-size": args.batch_size,
            "rounds": args.steps,
            "steps": 1,
            "threads": threads,
            "images": 0,
            "seed": args.seed,
            "out": out,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, str(HERE / "training_throughput.py"), "--pairs", *words]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        (row,) = json.loads(out.read_text())["rows"]
    return row["p50_ms"]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mobilevitv2_050")
    parser.add_argument("--spins", type=int, nargs="+", default=[300_000, SPINS, 1_000])
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="timed in each process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of weights and images")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
