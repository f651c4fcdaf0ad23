"""Inference time of our networks, exactly rewritten, and of timm's with the same weights.

    python benchmarks/backbones.py [--models mobilevitv2_100 ...] [--batch-size 8] [--size 512]

Both are written by the same exporter with the same opset: ours as `pocketvit export` does it, timm's as it
is, which is what a user of timm gets. The two files take turns on one thread, in alternating order, so that a
busy machine is fair to both; what is compared is the ratio of the medians, with the ratio of the fastest runs
beside it. Outputs must agree to 1e-4 of the largest logit. OpenVINO is measured too where it is installed
(`pip install pocketvit[openvino]`). Batch statistics are settled with random images first. Writes
benchmarks/results/backbones.json; at another batch or size, a file with both in its name.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from pocketvit.backbones import create_model, get_entry
from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware, versions
from pocketvit.deployment.onnx import frozen_copy, trace
from pocketvit.deployment.rewrites import rewrite_for_inference
from pocketvit.deployment.session import open_session

OUT = Path(__file__).parent / "results"
MODELS = (
    "mobilevit_xxs",
    "mobilevit_xs",
    "mobilevit_s",
    "mobilevitv2_050",
    "mobilevitv2_100",
    "mobilevitv2_200",
    "swiftformer_xs",
    "swiftformer_s",
    "swiftformer_l1",
    "swiftformer_l3",
)
SAME = 1e-4
"""Largest difference of two logits, as a share of the largest logit."""

Array = NDArray[np.float32]
Run = Callable[[Array], Array]


def main() -> None:
    """Measure every model and write the result."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    rows = [row for name in args.models for row in measure(name, args)]
    runtimes = {row["runtime"]: [] for row in rows}
    for row in rows:
        runtimes[row["runtime"]].append(row)
    usual = args.batch_size == 1 and args.size is None
    out = OUT / ("backbones.json" if usual else f"backbones_b{args.batch_size}_{args.size or 'own'}px.json")
    summary = {name: summarise(found) for name, found in runtimes.items()}
    write_json(
        args.out or out,
        {
            "what": "one call of an exported float32 network; ours rewritten, timm's as exported",
            "protocol": {
                "batch": args.batch_size,
                "threads": args.threads,
                "rounds": args.rounds,
                "interleaved": True,
                "warm_up_per_turn": 1,
                "same_outputs_to": SAME,
                "seed": args.seed,
            },
            "summary": summary,
            "rows": rows,
            "hardware": hardware(),
            "versions": versions() | ({"openvino": version("openvino")} if args.openvino else {}),
        },
    )
    for name, line in summary.items():
        print(f"{name}: {line}")


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each runtime."""
    size = args.size or get_entry(name).preprocessing.size
    torch.manual_seed(args.seed)
    ours = settle(create_model(name), size)
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ours.state_dict())
    rewritten, rewrites = rewrite_for_inference(frozen_copy(ours).double(), size=size)
    images = np.random.default_rng(args.seed).standard_normal((args.batch_size, 3, size, size), np.float32)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "ours": write(frozen_copy(rewritten), size, Path(folder) / "ours.onnx"),
            "timm": write(frozen_copy(theirs), size, Path(folder) / "timm.onnx"),
        }
        for runtime, open_file in openers(args).items():
            runs = {key: open_file(path, args.threads) for key, path in paths.items()}
            seconds = take_turns(runs, images, args)
            rows.append(
                {
                    "name": name,
                    "runtime": runtime,
                    "size": size,
                    "batch": args.batch_size,
                    "n": args.rounds,
                    "max_diff": difference(runs, images),
                    **{
                        f"{key}_{label}_ms": round(float(of(found)) * 1e3, 3)
                        for key, found in seconds.items()
                        for label, of in (("p50", np.median), ("min", np.min))
                    },
                    "speedup_p50": round(float(np.median(seconds["timm"]) / np.median(seconds["ours"])), 3),
                    "speedup_min": round(min(seconds["timm"]) / min(seconds["ours"]), 3),
                    "rewrites": [rewrite.to_dict() for rewrite in rewrites],
                }
            )
            shown = ("ours_p50_ms", "timm_p50_ms", "speedup_p50", "speedup_min", "max_diff")
            print(name, runtime, {key: rows[-1][key] for key in shown}, flush=True)
    return rows


def settle(model: nn.Module, size: int) -> nn.Module:
    """Give the batch normalisations the statistics of random images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def write(model: nn.Module, size: int, path: Path) -> Path:
    """The ONNX file of a network."""
    path.write_bytes(trace(model, size).SerializeToString())
    return path


def openers(args: argparse.Namespace) -> dict[str, Callable[[Path, int], Run]]:
    """What opens a file, by runtime."""
    return {"onnxruntime": in_onnxruntime} | ({"openvino": in_openvino} if args.openvino else {})


def in_onnxruntime(path: Path, threads: int) -> Run:
    """A file in ONNX Runtime."""
    session = open_session(path, threads=threads)
    return lambda images: np.asarray(session.run(None, {"image": images})[0])


def in_openvino(path: Path, threads: int) -> Run:
    """A file in OpenVINO, in float32 as ONNX Runtime computes."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    return lambda images: np.asarray(request.infer({"image": images})[0])


def take_turns(runs: dict[str, Run], images: Array, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each call; every second round goes backwards."""
    seconds: dict[str, list[float]] = {key: [] for key in runs}
    for turn in range(args.rounds):
        for key in runs if turn % 2 == 0 else reversed(runs):
            runs[key](images)
            began = time.perf_counter()
            runs[key](images)
            seconds[key].append(time.perf_counter() - began)
    return seconds


def difference(runs: dict[str, Run], images: Array) -> float:
    """How far the logits of the two are apart; stops the benchmark where that is more than rounding."""
    ours, theirs = (runs[key](images) for key in ("ours", "timm"))
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not found <= SAME:
        raise SystemExit(f"the outputs differ by {found:.1e} of the largest logit")
    return float(f"{found:.1e}")


def summarise(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric mean and worst of the ratios, of medians and of fastest runs."""
    found: dict[str, float] = {}
    for label in ("p50", "min"):
        ratios = [row[f"speedup_{label}"] for row in rows]
        found[f"geometric_mean_{label}"] = round(math.prod(ratios) ** (1 / len(ratios)), 3)
        found[f"worst_{label}"] = min(ratios)
    return found


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=40, help="timed calls of each file")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--size", type=int, help="pixels; by default each model's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--openvino", action=argparse.BooleanOptionalAction, default=has_openvino())
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


if __name__ == "__main__":
    main()
