"""Inference time and size of our integer files beside our float files, each in the runtime it is made for.

    python benchmarks/integer_speed.py [--models mobilevit_s ...] [--runtimes onnxruntime openvino] [--again]
        [--files FOLDER [--only-make]]

One image, one thread, the model's own size. The float file is what `pocketvit export` writes, the integer
file what `pocketvit quantize` does, W8A8 by `pocket`. In OpenVINO the float file also runs in bfloat16 where
the processor has it, as it would by itself, and so does what the integer file leaves in float. `stock` is the
file that NNCF (OpenVINO) or the static quantization of products (ONNX Runtime) makes of the same network.
All take turns, in alternating order; what is compared is the ratio of the medians, with that of the fastest
runs beside it. The networks have random weights and are calibrated on noise: that changes no kernel, and says
nothing of accuracy, which `benchmarks/quantization.py` measures. A row is written to
benchmarks/results/integer_speed.json as soon as it is measured, and not measured again unless asked for; one
where the integer file is slower comes with both profiles. With `--files` the files are kept in that folder
and not made again, whatever the code says by then: with `--only-make` they can be made on a busy machine, and
be timed by a second call on a quiet one.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import Run, installed, random_images, settle, take_turns
from operator_profile import PROFILERS, profile_table
from pocketvit.backbones import create_model, get_entry
from pocketvit.benchmarking.runtimes import Runtime
from pocketvit.core.errors import CheckpointError
from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware
from pocketvit.deployment.integer import export_integer
from pocketvit.deployment.onnx import export_onnx
from pocketvit.deployment.openvino import has_bfloat16, has_openvino
from pocketvit.deployment.precision import precision_table
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization import Calibration, QuantizationSpec, quantize
from pocketvit.quantization.spec import Runtime as RuntimeName
from pocketvit.tasks import ModelCard
from stock_quantizers import STOCK_FILES

OUT = Path(__file__).parent / "results" / "integer_speed.json"
MODELS = (
    "mobilenetv3_large_100",
    "mobilevit_xxs",
    "mobilevit_s",
    "mobilevitv2_050",
    "mobilevitv2_100",
    "mobilevitv2_200",
    "swiftformer_xs",
    "swiftformer_s",
    "swiftformer_l1",
    "cas_vit_xs",
    "cas_vit_s",
    "efficientformer_l1",
    "efficientformerv2_s1",
    "mobile_former_52m",
)
CALIBRATION = 4
STOCK = {"onnxruntime": "ort_static_products", "openvino": "nncf_default"}
PROFILED_RUNS = 20

Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> None:
    """Measure every row that is not there yet."""
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    found = json.loads(args.out.read_text()) if args.out.is_file() else {"rows": []}
    rows: list[Row] = found["rows"]
    for name in args.models:
        done = set() if args.again else {row["runtime"] for row in rows if key(row) in here(name)}
        for row in measure(name, [runtime for runtime in args.runtimes if runtime not in done], args):
            rows = [old for old in rows if key(old) != key(row)] + [row]
            save(args.out, rows)
    for runtime, line in summarise(rows).items():
        print(runtime, line)


def save(out: Path, rows: list[Row]) -> None:
    """Write everything measured so far."""
    write_json(
        out,
        {
            "what": "one image, one call of a file; random weights, calibrated on noise",
            "protocol": {"interleaved": True, "warm_up_per_turn": 1, "batch": 1},
            "summary": summarise(rows),
            "rows": sorted(rows, key=key),
        },
    )


def measure(name: str, runtimes: list[RuntimeName], args: argparse.Namespace) -> Iterator[Row]:
    """A row for each runtime."""
    if not runtimes:
        return
    with folder_of(f"{name}-{args.method}-{args.seed}", args.files) as folder:
        made = make(name, runtimes, folder, args)
        for runtime in [] if args.only_make else runtimes:
            files = {side: folder / path for side, path in made[runtime].items()}
            yield compare(name, get_entry(name).preprocessing.size, runtime, files, args)


@contextmanager
def folder_of(name: str, files: Path | None) -> Generator[Path]:
    """Where the files of a network, method and seed are: kept if asked for."""
    if files is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        (files / name).mkdir(parents=True, exist_ok=True)
        yield files / name


def make(name: str, runtimes: list[RuntimeName], folder: Path, args: argparse.Namespace) -> Row:
    """The files of a network for each runtime, by their side in the row, relative to the folder."""
    listed = folder / "files.json"
    made: Row = json.loads(listed.read_text()) if listed.is_file() else {}
    if all(runtime in made for runtime in runtimes):
        return made
    torch.manual_seed(args.seed)
    size = get_entry(name).preprocessing.size
    model = settle(create_model(name), size)
    images = torch.randn(CALIBRATION, 3, size, size)
    card = random_card(name)
    export_onnx(model, folder / "float.onnx", card=card)
    for runtime in runtimes:
        if runtime in made:
            continue
        write_integers(model, images, folder / f"{runtime}.onnx", card, runtime, args.method)
        made[runtime] = {"float32": "float.onnx", "int8": f"{runtime}.onnx"}
        if has_stock_tool(runtime):
            apart = folder / f"stock-{runtime}"  # it has a float file of its own
            apart.mkdir(exist_ok=True)
            written = STOCK_FILES[STOCK[runtime]][1](model, images, apart)
            made[runtime]["stock"] = str(written.relative_to(folder))
        write_json(listed, made)
        print(name, runtime, "made", flush=True)
    return made


def random_card(name: str) -> ModelCard:
    """What a file says of itself; only the classes matter here."""
    entry = get_entry(name)
    return ModelCard(
        name=name,
        classes=tuple(f"class {i}" for i in range(1000)),
        preprocessing=entry.preprocessing,
        code_licence=entry.code_licence,
        weights_licence="random numbers",
        source=entry.source,
    )


def has_stock_tool(runtime: str) -> bool:
    """Whether the runtime's own tool is installed; ONNX Runtime brings it."""
    return runtime != "openvino" or find_spec("nncf") is not None


def write_integers(
    model: nn.Module, images: Tensor, path: Path, card: ModelCard, runtime: RuntimeName, method: str
) -> None:
    """The integer file of a network for a runtime."""
    size = card.preprocessing.size
    spec = QuantizationSpec(method=method, runtime=runtime)
    network = quantize(prepare_for_quantization(model, size=size), spec, Calibration(images))
    export_integer(network, path, card=card)


def compare(name: str, size: int, runtime: str, files: dict[str, Path], args: argparse.Namespace) -> Row:
    """Time all files; profile ours where integers are slower."""
    images = random_images(1, size, args.seed)
    in_float, integers = files["float32"], files["int8"]
    row: Row = {"name": name, "runtime": runtime, "size": size, "threads": args.threads}
    if "stock" in files:
        try:
            open_all(runtime, {"stock": files["stock"]}, threads=args.threads)
        except CheckpointError as error:
            row["stock_error"] = str(error).replace(str(files.pop("stock")), "the file")
    runs = open_all(runtime, files, threads=args.threads)
    wall, _ = take_turns(runs, images, rounds=args.rounds, limit=args.seconds)
    row |= {"method": args.method, "rounds": len(wall["float32"]), "seed": args.seed}
    for side, seconds in wall.items():
        ordered = sorted(seconds)
        row[f"{side}_p50_ms"] = round(ordered[len(ordered) // 2] * 1e3, 3)
        row[f"{side}_min_ms"] = round(ordered[0] * 1e3, 3)
    for side in runs:
        if side != "float32":
            row[f"{side}_speedup_p50"] = round(row["float32_p50_ms"] / row[f"{side}_p50_ms"], 3)
            row[f"{side}_speedup_min"] = round(row["float32_min_ms"] / row[f"{side}_min_ms"], 3)
    row["bytes"] = {"float32": in_float.stat().st_size, "int8": integers.stat().st_size}
    row["size_ratio"] = round(row["bytes"]["int8"] / row["bytes"]["float32"], 3)
    table = precision_table(integers, runtime=runtime)
    row["operators"] = dict(Counter(found.precision for found in table))
    print(
        name,
        runtime,
        {part: row[part] for part in row if part.endswith(("p50", "p50_ms", "ratio"))},
        flush=True,
    )
    if row["int8_speedup_p50"] < 1:
        row["profile"] = profile(row, images, in_float, integers)
    return row | {"hardware": hardware(), "versions": installed()}


def open_all(runtime: str, files: dict[str, Path], *, threads: int) -> dict[str, Run]:
    """What takes turns, by the name it has in the row."""
    found = {side: (runtime, path) for side, path in files.items()}
    if runtime == "openvino" and "float32" in files and has_bfloat16():
        found |= {
            "bfloat16": ("openvino_bf16", files["float32"]),
            "int8_bfloat16": ("openvino_bf16", files["int8"]),
        }
    return {
        side: Runtime.load(where).open_file(path, threads=threads) for side, (where, path) in found.items()
    }


def profile(row: Row, images: Any, in_float: Path, integers: Path) -> Row:
    """Where the time of both files goes; prints the two side by side."""
    run: Callable[[Path], Any] = partial(
        PROFILERS[row["runtime"]], images=images, threads=row["threads"], runs=PROFILED_RUNS
    )
    before, after = run(in_float), run(integers)
    print(profile_table(before, after, names=("float32", "int8")), flush=True)
    return {"float32": before, "int8": after}


def summarise(rows: list[Row]) -> Row:
    """Geometric means of the ratios, and the worst, for each runtime and set of instructions."""
    summary: Row = {}
    for group in dict.fromkeys(key(row)[:2] for row in rows):
        mine = [row for row in rows if key(row)[:2] == group]
        found: Row = {"models": len(mine)}
        for side in ("int8", "stock", "bfloat16", "int8_bfloat16"):
            for label in ("p50", "min"):
                ratios = [row[f"{side}_speedup_{label}"] for row in mine if f"{side}_speedup_{label}" in row]
                if ratios:
                    found[f"{side}_geometric_mean_{label}"] = round(math.prod(ratios) ** (1 / len(ratios)), 3)
                    found[f"{side}_worst_{label}"] = min(ratios)
        found["largest_size_ratio"] = max(row["size_ratio"] for row in mine)
        found["mean_size_ratio"] = round(sum(row["size_ratio"] for row in mine) / len(mine), 3)
        summary[f"{group[0]}, {group[1]}"] = found
    return summary


def key(row: Row) -> tuple[str, str, str]:
    """What tells one row from another: other instructions of the processor mean other kernels."""
    return row["runtime"], row["hardware"]["instructions"], row["name"]


def here(name: str) -> set[tuple[str, str, str]]:
    """The keys that rows of a network measured on this processor have."""
    return {(runtime, hardware()["instructions"], name) for runtime in STOCK}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    runtimes = ["onnxruntime", *(["openvino"] if has_openvino() else [])]
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--runtimes", nargs="+", choices=["onnxruntime", "openvino"], default=runtimes)
    parser.add_argument("--method", default="pocket")
    parser.add_argument("--rounds", type=int, default=60, help="timed calls of each file")
    parser.add_argument("--seconds", type=float, default=20, help="fewer rounds where they take longer")
    parser.add_argument("--again", action="store_true", help="measure what is there already once more")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=Path, help="keep the files in this folder; use those that are there")
    parser.add_argument("--only-make", action="store_true", help="with --files: time nothing")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(arguments)
    if args.only_make and args.files is None:
        parser.error("--only-make needs --files, the folder to make them in")
    return args


if __name__ == "__main__":
    main()
