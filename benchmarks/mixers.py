"""How the four token mixers grow with the number of tokens: time and peak memory, from 64 to 65,536 tokens.

    python benchmarks/mixers.py [--device cpu] [--threads 1] [--dim 64] [--largest 65536]

Every cell runs in a process of its own, so that its peak memory is its own: the largest resident memory after
the forward passes less that before them (on a GPU what the allocator counted). Time is the median of repeated
forward passes. The growth exponents are slopes of log(time) and log(memory) over the upper half of the token
counts, where constant costs no longer show. Writes benchmarks/results/mixers.json and mixers.svg (needs
matplotlib).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pocketvit.core.console import progress_bar
from pocketvit.core.files import write_json
from pocketvit.core.machine import choose_device, hardware, versions
from pocketvit.mixers import (
    ConvolutionalAdditiveMixer,
    EfficientAdditiveAttention,
    SeparableSelfAttention,
    SoftmaxAttention,
)

OUT = Path(__file__).parent / "results" / "mixers.json"
MIXERS = {
    "separable": lambda dim: SeparableSelfAttention(dim=dim),
    "additive": lambda dim: EfficientAdditiveAttention(dim=dim),
    "convolutional": lambda dim: ConvolutionalAdditiveMixer(dim=dim),
    "softmax": lambda dim: SoftmaxAttention(dim=dim, heads=4),
}
SECONDS = 2.0
"""About how long a cell is timed after one pass to warm up."""
AT_LEAST, AT_MOST = 3, 200
"""Passes timed."""


def main() -> None:
    """Measure every cell, fit, write the result and the plot."""
    args = parse_arguments()
    if args.cell:
        name, tokens = args.cell
        print(json.dumps(measure(name, int(tokens), args)))
        return
    counts = [4**power for power in range(3, 9) if 4**power <= args.largest]
    cells = [(name, tokens) for tokens in counts for name in MIXERS]
    with progress_bar() as bar:
        rows = [in_own_process(*cell, args) for cell in bar.track(cells, description="mixers")]
    result = {
        "protocol": {
            "batch": 1,
            "dim": args.dim,
            "device": args.device,
            "threads": args.threads,
            "seconds_per_cell": SECONDS,
            "pass": "forward, inference mode, float32",
            "seed": 0,
        },
        "growth": {name: growth([row for row in rows if row["mixer"] == name]) for name in MIXERS},
        "rows": rows,
        "hardware": hardware(),
        "versions": versions(),
    }
    write_json(args.out, result)
    plot(result, args.out.with_suffix(".svg"))
    print(json.dumps(result["growth"], indent=1))


def in_own_process(name: str, tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    """The result of `measure` in a fresh process."""
    words = ["--cell", name, str(tokens), "--device", args.device, "--threads", str(args.threads)]
    command = [sys.executable, __file__, *words, "--dim", str(args.dim)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@torch.inference_mode()
def measure(name: str, tokens: int, args: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one mixer on a square map of `tokens` pixels."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    mixer: nn.Module = MIXERS[name](args.dim).eval().to(device)
    side = math.isqrt(tokens)
    mixer(torch.randn(1, args.dim, 8, 8, device=device))  # loads the libraries, so that they do not count
    x = torch.randn(1, args.dim, side, side, device=device)
    before = peak_bytes(device)
    seconds = [passed(mixer, x)]
    memory = peak_bytes(device) - before
    repeats = min(max(AT_LEAST, round(SECONDS / seconds[0])), AT_MOST)
    seconds = [passed(mixer, x) for _ in range(repeats)]
    return {
        "mixer": name,
        "tokens": tokens,
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


def peak_bytes(device: torch.device) -> int:
    """The most memory held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of the growth with the number of tokens, from the upper half of the counts."""
    upper = rows[len(rows) // 2 :]
    tokens = np.log([row["tokens"] for row in upper])
    return {
        key: round(float(np.polyfit(tokens, np.log([max(row[key], 1e-3) for row in upper]), 1)[0]), 2)
        for key in ("p50_ms", "peak_memory_mb")
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Time and memory over tokens, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"p50_ms": "time of a forward pass (ms)", "peak_memory_mb": "peak memory of it (MB)"}
    for axis, (key, label) in zip(axes, labels.items(), strict=True):
        for name in MIXERS:
            rows = [row for row in result["rows"] if row["mixer"] == name and row[key] > 0]
            exponent = result["growth"][name][key]
            axis.plot(
                [row["tokens"] for row in rows],
                [row[key] for row in rows],
                marker="o",
                label=f"{name}: grows as tokens^{exponent:.2f}",
            )
        axis.set(xscale="log", yscale="log", xlabel="tokens (pixels of the feature map)", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    protocol = result["protocol"]
    figure.suptitle(
        f"Token mixers, {protocol['dim']} channels, batch 1, {protocol['threads']} thread, "
        f"{result['hardware']['cpu']}",
        fontsize=10,
    )
    figure.savefig(path, metadata={"Date": None})


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64, help="channels")
    parser.add_argument("--largest", type=int, default=4**8, help="most tokens")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cell", nargs=2, metavar=("MIXER", "TOKENS"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
