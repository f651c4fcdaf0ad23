"""Inference time of our networks, exactly rewritten, and of timm's with the same weights.

    python benchmarks/backbones.py [--models mobilevitv2_100 ...] [--batch 1 8] [--size own 512] [--again]

Both are written by the same exporter with the same opset: ours as `pocketvit export` does it, timm's as it
is, which is what a user of timm gets. The two files take turns on one thread, in alternating order, so that a
busy machine is fair to both; what is compared is the ratio of the medians, with the ratio of the fastest runs
and that of the median processor times beside it. Outputs must agree to 1e-4 of the largest logit. OpenVINO is
measured too where it is installed (`pip install pocketvit[openvino]`). Batch statistics are settled with
random images first.

Every row is written to benchmarks/results/backbones.json as soon as it is measured, and is not measured again
unless asked for: run the same command to go on. In the end the networks that gain least are profiled by type
of operator, in each runtime, at each batch and size.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from operator_profile import PROFILERS, products_share, profile_table
from pocketvit.backbones import create_model, get_entry
from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware, versions
from pocketvit.deployment.attention import fuse_attention
from pocketvit.deployment.onnx import frozen_copy, trace
from pocketvit.deployment.rewrites import rewrite_for_inference
from pocketvit.deployment.session import open_session

OUT = Path(__file__).parent / "results" / "backbones.json"
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
LEAST_ROUNDS = 4
PROFILED_RUNS, LEAST_PROFILED_RUNS, PROFILED_SECONDS = 20, 4, 10
KEY = ("name", "runtime", "batch", "size", "threads")
"""What tells one row from another."""

Array = NDArray[np.float32]
Run = Callable[[Array], Array]
Row = dict[str, Any]
Paths = dict[str, Path]


def main(arguments: list[str] | None = None) -> None:
    """Measure every case that is not there yet, and profile those that gain least."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    # rows that an older version of this script wrote do not say on how many threads
    rows: list[Row] = [row for row in found.get("rows", []) if "threads" in row]
    profiles: list[Row] = [profile for profile in found.get("profiles", []) if "threads" in profile]
    for name in args.models:
        for size in dict.fromkeys(pixels(name, size) for size in args.size):
            for row in measure(name, size, args, done=set() if args.again else {key(row) for row in rows}):
                rows = [old for old in rows if key(old) != key(row)] + [row]
                profiles = [old for old in profiles if key(old) != key(row)]
                save(args, rows, profiles)
    for row in least_gain(rows, args):
        if args.again or key(row) not in map(key, profiles):
            profiles = [old for old in profiles if key(old) != key(row)] + [profile(row, args)]
            save(args, rows, profiles)
    for case, line in summarise(rows).items():
        print(f"{case}: {line}")


def save(args: argparse.Namespace, rows: list[Row], profiles: list[Row]) -> None:
    """Write everything measured so far."""
    write_json(
        args.out,
        {
            "what": "one call of an exported float32 network; ours rewritten, timm's as exported",
            "protocol": {"interleaved": True, "warm_up_per_turn": 1, "same_outputs_to": SAME},
            "summary": summarise(rows),
            "rows": sorted(rows, key=lambda row: [str(row[part]) for part in ("batch", "size", *KEY)]),
            "profiles": profiles,
        },
    )


def measure(name: str, size: int, args: argparse.Namespace, *, done: set[Any]) -> Iterator[Row]:
    """A row for each runtime and batch that is not done."""
    cases = [(runtime, batch) for batch in args.batch for runtime in args.runtimes]
    cases = [case for case in cases if (name, *case, size, args.threads) not in done]
    if not cases:
        return
    with exported(name, size, args.seed) as (paths, rewrites):
        for runtime, batch in cases:
            images = random_images(batch, size, args.seed)
            runs = {side: OPENERS[runtime](path, args.threads) for side, path in paths.items()}
            max_diff = difference(runs, images)
            wall, cpu = take_turns(runs, images, rounds=args.rounds, limit=args.seconds)
            row: Row = {
                "name": name,
                "family": get_entry(name).family,
                "runtime": runtime,
                "batch": batch,
                "size": size,
                "threads": args.threads,
                "rounds": len(wall["ours"]),
                "seed": args.seed,
                "max_diff": max_diff,
            }
            for label, seconds, of in (
                ("p50", wall, np.median),
                ("min", wall, np.min),
                ("cpu", cpu, np.median),
            ):
                ours, theirs = (float(of(seconds[side])) for side in ("ours", "timm"))
                row |= {f"ours_{label}_ms": round(ours * 1e3, 3), f"timm_{label}_ms": round(theirs * 1e3, 3)}
                row[f"speedup_{label}"] = round(theirs / ours, 3)
            shown = ("max_diff", "rounds", "ours_p50_ms", "timm_p50_ms", "speedup_p50", "speedup_cpu")
            print(name, runtime, f"batch {batch}, {size} px", {part: row[part] for part in shown}, flush=True)
            yield row | {"rewrites": rewrites, "hardware": hardware(), "versions": installed()}


@contextmanager
def exported(name: str, size: int, seed: int) -> Iterator[tuple[Paths, list[Row]]]:
    """The files of both, `ours` and `timm`, while the context lasts, and what was rewritten in ours."""
    torch.manual_seed(seed)
    ours = settle(create_model(name), size)
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ours.state_dict())
    rewritten, rewrites = rewrite_for_inference(frozen_copy(ours).double(), size=size)
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            "ours": write(fuse_attention(trace(frozen_copy(rewritten), size)), Path(folder) / "ours.onnx"),
            "timm": write(trace(frozen_copy(theirs), size), Path(folder) / "timm.onnx"),
        }
        yield paths, [rewrite.to_dict() for rewrite in rewrites]


def settle(model: nn.Module, size: int) -> nn.Module:
    """Give the batch normalisations the statistics of random images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def write(graph: onnx.ModelProto, path: Path) -> Path:
    """The file of a graph."""
    path.write_bytes(graph.SerializeToString())
    return path


def random_images(batch: int, size: int, seed: int) -> Array:
    """Images (B, 3, S, S)."""
    return np.random.default_rng(seed).standard_normal((batch, 3, size, size), np.float32)


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


OPENERS: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
"""What opens a file, by runtime."""

Seconds = dict[str, list[float]]


def take_turns(runs: dict[str, Run], images: Array, *, rounds: int, limit: float) -> tuple[Seconds, Seconds]:
    """Seconds of each call, by the clock and of the processor; every second round goes backwards.

    Args:
        limit: no round begins after so many seconds, except the first few.
    """
    wall, cpu = ({side: list[float]() for side in runs} for _ in range(2))
    started = time.perf_counter()
    for turn in range(rounds):
        if turn >= LEAST_ROUNDS and time.perf_counter() - started > limit:
            break
        for side in runs if turn % 2 == 0 else reversed(runs):
            runs[side](images)
            began = time.perf_counter(), time.process_time()
            runs[side](images)
            wall[side].append(time.perf_counter() - began[0])
            cpu[side].append(time.process_time() - began[1])
    return wall, cpu


def difference(runs: dict[str, Run], images: Array) -> float:
    """How far the logits of the two are apart; stops the benchmark where that is more than rounding."""
    ours, theirs = (runs[side](images) for side in ("ours", "timm"))
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not found <= SAME:
        raise SystemExit(f"the outputs differ by {found:.1e} of the largest logit")
    return float(f"{found:.1e}")


def least_gain(rows: list[Row], args: argparse.Namespace) -> list[Row]:
    """The rows that gain least of those asked for: `--profile` for each runtime, batch and size."""
    ordered = sorted(rows, key=lambda row: row["speedup_p50"])
    return [
        row
        for case in itertools.product(args.runtimes, args.batch, args.size)
        for row in [row for row in ordered if row["name"] in args.models and is_of(row, *case)][
            : args.profile
        ]
    ]


def is_of(row: Row, runtime: str, batch: int, size: str) -> bool:
    """Whether a row is of this runtime, batch and size."""
    return (row["runtime"], row["batch"], row["size"]) == (runtime, batch, pixels(row["name"], size))


def profile(row: Row, args: argparse.Namespace) -> Row:
    """Where the time of both files goes; prints the two side by side."""
    runs = min(PROFILED_RUNS, max(LEAST_PROFILED_RUNS, int(PROFILED_SECONDS * 1e3 / row["timm_p50_ms"])))
    with exported(row["name"], row["size"], args.seed) as (paths, _):
        images = random_images(row["batch"], row["size"], args.seed)
        sides = {
            side: PROFILERS[row["runtime"]](path, images, threads=row["threads"], runs=runs)
            for side, path in paths.items()
        }
    case = f"{row['name']} in {row['runtime']}, batch {row['batch']}, {row['size']} px"
    print(f"\n{case}\n{profile_table(sides['timm'], sides['ours'])}", flush=True)
    shares = {f"{side}_products_share": round(products_share(found), 3) for side, found in sides.items()}
    return {part: row[part] for part in KEY} | {"runs": runs} | shares | sides


def summarise(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Geometric mean and worst of the ratios of medians and of fastest runs, for each runtime and case."""
    cases: dict[str, list[Row]] = {}
    for row in rows:
        size = "own size" if row["size"] == pixels(row["name"], "own") else f"{row['size']} px"
        cases.setdefault(f"{row['runtime']}, batch {row['batch']}, {size}", []).append(row)
    return {case: ratios(found) for case, found in sorted(cases.items())}


def ratios(rows: list[Row]) -> dict[str, float]:
    """The summary of the rows of one case."""
    found: dict[str, float] = {"models": len(rows)}
    for label in ("p50", "min", "cpu"):
        ratios = [row[f"speedup_{label}"] for row in rows]
        found[f"geometric_mean_{label}"] = round(math.prod(ratios) ** (1 / len(ratios)), 3)
        found[f"worst_{label}"] = min(ratios)
    return found


def key(row: Row) -> tuple[Any, ...]:
    """What tells it from other rows."""
    return tuple(row[part] for part in KEY)


def pixels(name: str, size: str) -> int:
    """A number of pixels, or the model's own size for `own`."""
    return get_entry(name).preprocessing.size if size == "own" else int(size)


def installed() -> dict[str, str]:
    """Versions of all that matters here."""
    return versions() | ({"openvino": version("openvino")} if has_openvino() else {})


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    runtimes = list(OPENERS) if has_openvino() else ["onnxruntime"]
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--size", nargs="+", default=["own", "512"], help="pixels, or the model's `own`")
    parser.add_argument("--runtimes", nargs="+", choices=list(OPENERS), default=runtimes)
    parser.add_argument("--rounds", type=int, default=40, help="timed calls of each file")
    parser.add_argument("--seconds", type=float, default=20, help="fewer rounds where they take longer")
    parser.add_argument("--profile", type=int, default=3, help="how many to profile of each case")
    parser.add_argument("--again", action="store_true", help="measure what is there already once more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


def has_openvino() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("openvino") is not None


if __name__ == "__main__":
    main()
