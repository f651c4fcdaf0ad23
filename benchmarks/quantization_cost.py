"""Time and memory of quantization: each method in a process of its own, on one network and 32 images.

    python benchmarks/quantization_cost.py [--model mobilevitv2_050] [--size 128] [--images 32] [--threads 2]
        [--methods pocket minmax ...] [--diagnosed pocket ...] [--limit 300]

W8A8, partial scope. The network is untrained and the images are noise: what they show changes no amount of
work. Seconds of the processor are what counts, those of the clock depend on what else the machine does; peak
memory is the largest resident set of the process, and `memory_before_gib` what it is before the work, PyTorch
and the network included. A method that needs more processor seconds than `--limit` is stopped, and its row
says so. Writes benchmarks/results/quantization_cost.json after every row; a row that is there is not measured
again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pocketvit.backbones import create_model
from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware, versions
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import METHODS, Calibration, QuantizationSpec, quantize
from pocketvit.quantization.diagnosis import diagnose

OUT = Path(__file__).parent / "results" / "quantization_cost.json"
DIAGNOSED = ("pocket",)
"""Methods that are measured a second time with the diagnosis that `pocketvit quantize` adds."""
KEY = ("model", "size", "images", "threads", "method", "diagnosis")

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure the rows that are missing, or the one that a parent process asks for."""
    args = parse_arguments(arguments)
    if args.row is not None:
        print(json.dumps(measure(json.loads(args.row))))
        return
    found: Row = json.loads(args.out.read_text()) if args.out.is_file() else {"rows": []}
    for row in wanted(args):
        if not any(all(done[key] == row[key] for key in KEY) for done in found["rows"]):
            found["rows"].append({**row, **in_own_process(row), "load": round(os.getloadavg()[0], 2)})
            found |= {"hardware": hardware(), "versions": versions()}
            write_json(args.out, found)
            print(json.dumps(found["rows"][-1]), flush=True)


def wanted(args: argparse.Namespace) -> Iterator[Row]:
    """What to measure, in order."""
    shared = {key: getattr(args, key) for key in ("model", "size", "images", "threads", "seed", "limit")}
    for method in args.methods:
        for diagnosis in (False, True) if method in args.diagnosed else (False,):
            yield {**shared, "method": method, "diagnosis": diagnosis, "label": "W8A8", "scope": "partial"}


def in_own_process(row: Row) -> Row:
    """What `measure` finds there; or that the limit was reached.

    Raises:
        SystemExit: the process failed.
    """
    done = subprocess.run(
        [sys.executable, __file__, "--row", json.dumps(row)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == -signal.SIGXCPU:
        return {"stopped": f"more than {row['limit']} s of the processor"}
    if done.returncode:
        raise SystemExit(f"{row['method']} failed, exit code {done.returncode}.")
    return json.loads(done.stdout)


def measure(row: Row) -> Row:
    """Quantize once; seconds, and peak memory of this process."""
    torch.set_num_threads(row["threads"])
    torch.manual_seed(row["seed"])
    model = create_model(row["model"], num_classes=10).eval()
    images = torch.randn(row["images"], 3, row["size"], row["size"])
    calibration = Calibration(images, torch.arange(row["images"]) % 10)
    before = peak_gib()
    limit = math.ceil(time.process_time()) + row["limit"]  # what was imported so far does not count
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    spec = QuantizationSpec(method=row["method"], seed=row["seed"])
    seconds: dict[str, Row] = {}
    with timed(seconds, "prepare"):
        prepared = prepare_for_quantization(model, size=row["size"])
    with timed(seconds, "quantize"):
        network = quantize(prepared, spec, calibration)
    if row["diagnosis"]:
        with timed(seconds, "diagnose"):
            diagnose(network, calibration, reference=prepared)
    parts = list(seconds.values())
    return {
        "cpu_seconds": round(sum(part["cpu"] for part in parts), 1),
        "wall_seconds": round(sum(part["wall"] for part in parts), 1),
        "parts": seconds,
        "memory_before_gib": before,
        "peak_memory_gib": peak_gib(),
        "quantized_operators": sum(operator.has_quantizers for operator in network.operators.values()),
        "n": 1,
    }


@contextmanager
def timed(seconds: dict[str, Row], name: str) -> Generator[None]:
    """Note how long the block takes, on the processor and by the clock."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    seconds[name] = {
        "cpu": round(time.process_time() - cpu, 1),
        "wall": round(time.perf_counter() - wall, 1),
    }


def peak_gib() -> float:
    """Largest resident set of this process so far, in GiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mobilevitv2_050")
    parser.add_argument("--size", type=int, default=128, help="pixels")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--diagnosed", nargs="*", default=list(DIAGNOSED), choices=list(METHODS))
    parser.add_argument("--limit", type=int, default=300, help="most seconds of the processor for a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
