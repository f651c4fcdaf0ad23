"""How the token mixers grow with the number of tokens: time and peak memory, from 64 to 65,536 tokens.

    python benchmarks/mixers.py [--device cpu] [--threads 1] [--dim 64] [--largest 65536]

The four mixers as `create_model(..., mixer=NAME)` uses them. Softmax attention there is PyTorch's fused
kernel, which never stores the N × N scores: its memory is linear in the tokens, only its time is quadratic.
The fifth line, "softmax, scores stored", is the same module with the kernel that does store them; sizes that
would not fit in memory are skipped.

Every cell runs in a process of its own (Linux), so that its memory is its own: the largest resident memory
during the first pass at that size, less that just before (on a GPU, what the allocator counted), after a
small pass that loads the libraries. Time is the median of repeated passes. The growth exponents are slopes of
log(time) and log(memory) over the larger half of the token counts, where constant costs no longer show.
Writes a JSON file and, beside it, a plot; the file also says what each mixer costs in a network of each
family.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loglog import Panel, Series, loglog_svg
from pocketvit.backbones import create_model, get_entry
from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.console import progress_bar
from pocketvit.core.errors import PocketvitError
from pocketvit.core.files import write_json, write_text
from pocketvit.core.machine import choose_device, hardware, versions
from pocketvit.mixers import SoftmaxAttention, get_mixer, list_mixers

RESULTS = Path(__file__).parent / "results"
SIDES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Sides of the square maps, pixels."""
SCORES_STORED = "softmax, scores stored"
NAMES = [*list_mixers(), SCORES_STORED]
SECONDS = 2.0
"""About how long a cell is timed after one pass to warm up."""
AT_LEAST, AT_MOST = 3, 200
"""Passes timed."""
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
"""For glibc: keep freed memory. Otherwise PyTorch gets the pages of large maps anew from the system in every
pass, which takes several times as long as the arithmetic; a runtime keeps them."""
NETWORKS = ("mobilevit_s", "mobilevitv2_100", "swiftformer_s", "cas_vit_s")
COLOURS = dict(zip(NAMES, ("#0072b2", "#009e73", "#e69f00", "#d55e00", "#d55e00"), strict=True))
RESOLVED_MB = 0.2
"""Memory below this is not drawn: it drowns in what a process takes up page by page."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What is measured: its key in a row of the result, its axis, and the least that is drawn."""

    key: str
    label: str
    least: float


QUANTITIES = (
    Quantity(key="p50_ms", label="time of a forward pass (ms)", least=0.0),
    Quantity(key="peak_memory_mb", label="peak memory of a forward pass (MB)", least=RESOLVED_MB),
)


def main() -> None:
    """Measure every cell, fit, write the result and the plot."""
    args = parse_arguments()
    if args.cell:
        name, side = args.cell
        print(json.dumps(measure(name, int(side), args)))
        return
    cells = [(name, side) for side in SIDES if side**2 <= args.largest for name in NAMES]
    with progress_bar() as bar:
        rows = [in_own_process(*cell, args) for cell in bar.track(cells, description="mixers")]
    result = {
        "protocol": {
            "batch": 1,
            "dim": args.dim,
            "device": args.device,
            "threads": args.threads,
            "seconds_per_cell": SECONDS,
            "pass": "forward, inference mode, float32, square maps",
            "memory": "of the first pass, without its input; MB = 10^6 bytes",
            "growth": "slope of log(quantity) over log(tokens), larger half of the token counts measured",
            "seed": 0,
        },
        "growth": {name: growth([row for row in rows if row["mixer"] == name]) for name in NAMES},
        "rows": rows,
        "networks": [network(name, mixer) for name in NETWORKS for mixer in list_mixers()],
        "hardware": hardware(),
        "versions": versions(),
    }
    out = args.out or RESULTS / ("mixers.json" if args.device == "cpu" else f"mixers_{args.device}.json")
    write_json(out, result)
    write_text(out.with_suffix(".svg"), plot(result))
    print(json.dumps(result["growth"], indent=1))


def in_own_process(name: str, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """The result of `measure` in a fresh process; says so where the cell would not fit in memory.

    Raises:
        PocketvitError: the process failed.
    """
    needed, free = scores_bytes(name, side, args.dim), free_bytes(args.device)
    if needed > free:
        reason = f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
        return {"mixer": name, "tokens": side**2, "skipped": reason}
    words = ["--cell", name, str(side), "--device", args.device, "--threads", str(args.threads)]
    command = [sys.executable, __file__, *words, "--dim", str(args.dim)]
    environment = {**os.environ, **KEEP_MEMORY}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise PocketvitError(f"{name} at {side}×{side} failed (exit code {done.returncode}): {last}")
    return json.loads(done.stdout)


def scores_bytes(name: str, side: int, dim: int) -> int:
    """About what a cell needs for N × N scores a head: before and after the softmax, and one to spare."""
    return 3 * 4 * SoftmaxAttention(dim=dim).heads * side**4 if name == SCORES_STORED else 0


def free_bytes(device: str) -> int:
    """Memory that a process on this device could still take."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


@torch.inference_mode()
def measure(name: str, side: int, args: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one mixer on a square map."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    mixer = get_mixer("softmax" if name == SCORES_STORED else name)(args.dim).eval().to(device)
    kernel = sdpa_kernel(SDPBackend.MATH) if name == SCORES_STORED else contextlib.nullcontext()
    with kernel:
        passed(mixer, torch.randn(1, args.dim, 8, 8, device=device))  # loads the libraries: not counted
        x = torch.randn(1, args.dim, side, side, device=device)
        memory, first = peak_bytes(device, lambda: passed(mixer, x))
        repeats = min(max(AT_LEAST, round(SECONDS / first)), AT_MOST)
        seconds = [passed(mixer, x) for _ in range(repeats)]
    return {
        "mixer": name,
        "tokens": side**2,
        "n": repeats,
        "p50_ms": round(statistics.median(seconds) * 1e3, 4),
        "min_ms": round(min(seconds) * 1e3, 4),
        "peak_memory_mb": round(memory / 1e6, 3),
    }


def passed(mixer: nn.Module, x: torch.Tensor) -> float:
    """Seconds of one forward pass."""
    began = time.perf_counter()
    mixer(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_bytes(device: torch.device, work: Callable[[], float]) -> tuple[int, float]:
    """The most memory held during `work` beyond that before, and what `work` returned."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before, found = torch.cuda.memory_allocated(device), work()
        return torch.cuda.max_memory_allocated(device) - before, found
    Path("/proc/self/clear_refs").write_text("5")  # the largest resident size starts anew
    before, found = resident("VmRSS"), work()
    return resident("VmHWM") - before, found


def resident(field: str) -> int:
    """Resident size of this process now (`VmRSS`) or at its largest (`VmHWM`), bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of the growth with the number of tokens, from the larger half of those measured."""
    measured = [row for row in rows if "skipped" not in row]
    upper = measured[len(measured) // 2 :]
    tokens = np.log([row["tokens"] for row in upper])
    return {
        quantity.key: round(float(np.polyfit(tokens, np.log([row[quantity.key] for row in upper]), 1)[0]), 2)
        for quantity in QUANTITIES
    }


def network(name: str, mixer: str) -> dict[str, Any]:
    """Parameters and MACs of a network with this mixer, at its published size."""
    size = get_entry(name).preprocessing.size
    with torch.device("meta"):  # shapes only
        cost = measure_complexity(create_model(name, mixer=mixer), size)
    return {"model": name, "mixer": mixer, "size": size, "params": cost.params, "macs": cost.macs}


def plot(result: dict[str, Any]) -> str:
    """Time and memory over tokens, both axes logarithmic, as SVG."""
    protocol, machine = result["protocol"], result["hardware"]
    where = f"{machine['gpu']}" if protocol["device"] == "cuda" else f"{machine['cpu']}"
    threads = f", {protocol['threads']} thread{'s' * (protocol['threads'] > 1)}"
    return loglog_svg(
        "Token mixers: time and memory over the number of tokens",
        f"{protocol['dim']} channels, batch 1, float32, {where}"
        f"{threads if protocol['device'] == 'cpu' else ''}, PyTorch {result['versions']['torch']}"
        "; exponents are slopes over the larger half of the sizes",
        [panel(result, quantity) for quantity in QUANTITIES],
    )


def panel(result: dict[str, Any], quantity: Quantity) -> Panel:
    """The chart of one quantity."""
    rows = [row for row in result["rows"] if row.get(quantity.key, 0) > quantity.least]
    counts = [row["tokens"] for row in rows]
    return Panel(
        x_label="tokens N (pixels of the feature map)",
        y_label=quantity.label,
        x_ticks=[4.0**power for power in range(3, 9) if min(counts) <= 4**power <= max(counts)],
        series=[
            Series(
                name=f"{name}: grows as N",
                exponent=f"{result['growth'][name][quantity.key]:.2f}",
                colour=COLOURS[name],
                dashed=name == SCORES_STORED,
                points=[(row["tokens"], row[quantity.key]) for row in rows if row["mixer"] == name],
            )
            for name in NAMES
        ],
    )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64, help="channels, a multiple of 4")
    parser.add_argument("--largest", type=int, default=SIDES[-1] ** 2, help="most tokens")
    parser.add_argument("--out", type=Path, help="JSON file; default benchmarks/results/mixers.json")
    parser.add_argument("--cell", nargs=2, metavar=("MIXER", "SIDE"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
