"""Accuracy after post-training quantization: every method on every network, beside the stock tools.

    python benchmarks/quantization.py --data CIFAR10 [--models mobilevit_xxs ...] [--methods pocket ...]
        [--labels W8A8 W6A6] [--scopes partial full] [--draws 1]
        [--minutes 30] [--kernels all] [--ahead-in benchmarks/results/quantization.json]

CIFAR10 is a folder of parquet files. Networks are trained on 12,500 of its images at 64 px by the `cifar10`
recipe (12 epochs, on a processor) where `--runs` does not hold them yet, and are scored on 2,500 test images.
A cell is one network, method, width, scope and draw of 32 calibration images; it is written to
benchmarks/results/quantization.json as soon as it is measured and not measured again, so the table grows over
several calls. A cell that was not run is not there, and all cells of a name are of one trained network.
A cell with a reason under `outdated` is of earlier code: it is shown with a mark, and measured again.
Methods are scored in simulation, beside the stock tools in the runtimes they are made for (torchao in
simulation). So are the files that `pocket` writes, each also verified on the same test images against its
simulation in float64. `benchmarks/integer_speed.py` times the files, and `benchmarks/quantization_tables.py`
makes a page of the cells.

`--ahead-in` is a second look. Of many methods some are ahead of `pocket` by chance, so it measures `pocket`,
and what loses less in a file of results, on the 7,500 test images that the file is not of. Its cells go to a
file beside that one.

Torch is held to AVX2, unless `--kernels all` asks for all that the processor has: with one thread, training
then gives the same weights to the bit on AMD processors with and without AVX-512, and a network that was lost
is found by training it again. ONNX Runtime and OpenVINO always use what there is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketvit.core.files import write_json
from pocketvit.core.machine import hardware, versions
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData, open_images
from pocketvit.data.splits import ImageSplit
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment.integer_verification import open_integer, verify_integer
from pocketvit.deployment.onnx import trace
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.pipeline.build import train_only
from pocketvit.pipeline.config import BuildConfig
from pocketvit.pipeline.load import load_network
from pocketvit.pipeline.quantize import calibration_images
from pocketvit.quantization import METHODS, Calibration, QuantizationSpec, QuantizedNetwork, quantize
from pocketvit.quantization.lowering import lower
from pocketvit.quantization.spec import Runtime
from pocketvit.tasks import ModelCard
from pocketvit.tasks.classification import wilson_interval
from quantization_leads import Rival, ahead, packed, second_look_beside
from quantization_tables import show
from stock_quantizers import STOCK

OUT = Path(__file__).parent / "results" / "quantization.json"
MODELS = (
    "mobilevit_xxs",
    "mobilevitv2_050",
    "swiftformer_xs",
    "cas_vit_xs",
    "efficientformerv2_s0",
    "mobile_former_52m",
    "mobilenetv3_large_100",
)
SIZE, LIMIT, CALIBRATION = 64, 15_000, 32
TRAINING: dict[str, Any] = {
    "resolution": SIZE,
    "limit": LIMIT,
    "pretrained": "none",
    "recipe": "cifar10",
    "settings": {"epochs": 12},
    "device": "cpu",
}
DRAWS = {"pocket": 3, "qhyvit": 3}
"""Draws of calibration images; one for every other method."""
FILES: dict[str, Runtime] = {"pocket_onnxruntime": "onnxruntime", "pocket_openvino": "openvino"}
"""The files that `pocket` writes, by the name they have in the table."""
KEY = ("model", "method", "label", "scope", "draw")
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # its matrix products
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
}

Predict = Callable[[Tensor], Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A trained network and what it is measured with."""

    name: str
    model: nn.Module
    card: ModelCard
    graph: QuantizedNetwork
    data: ImageData
    images: Tensor
    labels: Tensor
    logits: Tensor  # of the float network
    split: str  # how training and test images were chosen

    def calibration(self, draw: int) -> Calibration:
        """Training images of all classes."""
        return calibration_images(self.data.train, self.card, n=CALIBRATION, seed=draw)


def main(args: argparse.Namespace) -> None:
    """Fill the cells that are missing, then print the table."""
    torch.set_num_threads(args.threads)
    found: Row = json.loads(args.out.read_text()) if args.out.is_file() else {"networks": {}, "cells": []}
    rivals = ahead(json.loads(args.ahead_in.read_text())) if args.ahead_in else None
    until = time.monotonic() + 60 * args.minutes
    for name in args.models:
        wanted = [cell for cell in cells(name, args) if rivals is None or is_looked_at(cell, rivals)]
        if all(has(found["cells"], cell) for cell in wanted) or time.monotonic() > until:
            continue
        network = load(name, args)
        begin_network(found, network, replace=args.replace)
        for cell in wanted:
            if has(found["cells"], cell):
                continue
            if time.monotonic() > until:
                break
            row = measure(network, cell)
            row["hardware"], row["versions"], row["threads"] = hardware(), versions(), args.threads
            row["kernels"] = torch.backends.cpu.get_cpu_capability()
            found["cells"] = [c for c in found["cells"] if not is_same(c, cell)] + [row]
            write_json(args.out, found)
            print(
                f"{name} {cell['method']} {cell['label']} {cell['scope']} draw {cell['draw']}: "
                f"{row['top1']['value']:.2%} after {row['cpu_seconds']} s",
                flush=True,
            )
    show(found)


def cells(model: str, args: argparse.Namespace) -> Iterator[Row]:
    """All cells of a network, in the order in which they are wanted."""
    for scope, label in product(args.scopes, args.labels):
        for method in args.methods:
            if method in STOCK and (label, scope) != ("W8A8", "partial"):
                continue  # the tools have no other width, and choose their operators themselves
            for draw in range(args.draws or DRAWS.get(method, 1)):
                yield {"model": model, "method": method, "label": label, "scope": scope, "draw": draw}


def is_looked_at(cell: Row, rivals: list[Rival]) -> bool:
    """Whether a second look is at this cell: of a method that is ahead of `pocket`, or of `pocket` there."""
    place = (cell["model"], cell["label"], cell["scope"])
    there = [rival.method for rival in rivals if rival.place == place]
    return cell["method"] in there or (cell["method"] == "pocket" and bool(there))


def has(rows: list[Row], cell: Row) -> bool:
    """Whether a cell was measured by today's code."""
    return any(is_same(row, cell) and "outdated" not in row for row in rows)


def is_same(row: Row, cell: Row) -> bool:
    """Whether a row is of this cell."""
    return all(row[key] == cell[key] for key in KEY)


def load(name: str, args: argparse.Namespace) -> Trained:
    """The network of this name, trained now if it is not in the runs."""
    run = RunDirectory(args.runs / name)
    if not run.has("evaluation.json"):
        run = train_only(BuildConfig(data=str(args.data), out=run.path, model=name, **TRAINING))
    model, card = load_network(run)
    data = open_images(args.data, limit=LIMIT, check="none")
    scored, split = data.val, data.split_rule
    if args.ahead_in:
        scored = others(open_images(args.data, check="none").val, data.val)
        split += "; scored on the other images of the test split"
    prepare = eval_transform(card.preprocessing)
    images = torch.stack([prepare(scored.load(i)) for i in range(len(scored))])
    graph = prepare_for_quantization(model, size=SIZE)
    logits = predict_all(graph, images)
    return Trained(name, model, card, graph, data, images, torch.tensor(scored.labels), logits, split)


def others(whole: ImageSplit, part: ImageSplit) -> ImageSplit:
    """The images of `whole` that are not in `part`."""
    taken = {part.key(i) for i in range(len(part))}
    return whole.subset([i for i in range(len(whole)) if whole.key(i) not in taken])


def begin_network(found: Row, network: Trained, *, replace: bool) -> None:
    """Let a network be the one that cells of its name speak of: all of them, or none.

    With AVX2, as many threads and the same versions, training gives the same weights to the bit on the same
    make of processor, so a network that was lost is found by training it again; elsewhere it gives another.

    Raises:
        SystemExit: cells were measured on another network of this name, and are not to be replaced.
    """
    now, before = describe(network), found["networks"].get(network.name)
    if before and before.get("weights") != now["weights"]:
        cells = [cell for cell in found["cells"] if cell["model"] == network.name]
        if cells and not replace:
            raise SystemExit(
                f"{len(cells)} cells of {network.name} were measured on a network of "
                f"{before['top1']['value']:.2%}, and this one, of {now['top1']['value']:.2%}, is another. "
                "Give --runs the folder that holds the first, or --replace to drop its cells."
            )
        found["cells"] = [cell for cell in found["cells"] if cell["model"] != network.name]
    found["networks"][network.name] = now


def describe(network: Trained) -> Row:
    """The float network: what every cell is compared with."""
    right = int((network.logits.argmax(1) == network.labels).sum())
    return {
        "weights": digest(network.model),
        "top1": interval(right, len(network.labels)),
        "n": len(network.labels),
        "n_train": len(network.data.train),
        "split": network.split,
        "size": SIZE,
        "training": TRAINING,
        "quantized_operators": len(network.graph.operators),
    }


def digest(model: nn.Module) -> str:
    """What tells the weights of one network from those of another."""
    found = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        found.update(name.encode() + values.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def measure(network: Trained, cell: Row) -> Row:
    """Quantize, score."""
    calibration = network.calibration(cell["draw"])
    verified: Row = {}
    began = time.process_time()  # of the processor: that of the clock depends on what else runs
    if cell["method"] in STOCK:
        with tempfile.TemporaryDirectory() as folder:
            predict = STOCK[cell["method"]](network.model, calibration.images, Path(folder))
            seconds = time.process_time() - began
            logits = predict_all(predict, network.images)
    else:
        quantized = quantize(network.graph, spec_of(cell), calibration)
        seconds = time.process_time() - began
        if cell["method"] in FILES:
            logits, verified = of_file(quantized, network)
        else:
            logits = predict_all(quantized, network.images)
    guesses, real = logits.argmax(1), network.logits.argmax(1)
    hits = guesses == network.labels
    right = int(hits.sum())
    return {
        **cell,
        "top1": interval(right, len(guesses)),
        "drop": round(float((real == network.labels).sum() - right) / len(guesses), 6),
        "right": packed(hits),
        "agreement": round(float((guesses == real).float().mean()), 6),
        "logit_error": float((logits - network.logits).square().mean() / network.logits.var()),
        "n": len(guesses),
        "calibration": CALIBRATION,
        "cpu_seconds": round(seconds, 1),
        **verified,
    }


def spec_of(cell: Row) -> QuantizationSpec:
    """What a cell asks of quantization."""
    weights, activations = (int(part) for part in cell["label"][1:].split("A"))
    runtime = FILES.get(cell["method"])
    return QuantizationSpec(
        method=cell["method"].partition("_")[0] if runtime else cell["method"],
        weights=weights,
        activations=activations,
        scope=cell["scope"],
        runtime=runtime,
        seed=cell["draw"],
    )


def of_file(quantized: QuantizedNetwork, network: Trained) -> tuple[Tensor, Row]:
    """Logits of the network's integer file in its runtime, and how far it agrees with its simulation."""
    assert quantized.runtime is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        path.write_bytes(trace(lower(quantized), quantized.size).SerializeToString())
        batches = zip(network.images.split(100), network.labels.split(100), strict=True)
        (verified,) = verify_integer(quantized, path, batches, runtimes=[quantized.runtime], strict=False)
        logits = predict_all(open_integer(path, runtime=quantized.runtime), network.images)
    return logits, {"verification": verified.to_dict()}


def predict_all(predict: Predict, images: Tensor) -> Tensor:
    """Logits of all images."""
    with torch.no_grad():
        return torch.cat([predict(batch) for batch in images.split(100)])


def interval(right: int, n: int) -> Row:
    """The share and its Wilson interval at 95%."""
    return asdict(wilson_interval(right, n))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10's parquet files")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/quantization"))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    methods = [*METHODS, *FILES, *STOCK]
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    parser.add_argument("--labels", nargs="+", default=["W8A8", "W6A6"])
    parser.add_argument("--scopes", nargs="+", default=["partial", "full"], choices=["partial", "full"])
    parser.add_argument(
        "--draws", type=int, help="of calibration images, instead of 3 for pocket, qhyvit, else 1"
    )
    parser.add_argument("--replace", action="store_true", help="drop cells of a network trained elsewhere")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after that")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kernels", choices=["avx2", "all"], default="avx2", help="that torch may use")
    parser.add_argument("--ahead-in", type=Path, help="a second look at what is ahead in this file")
    parser.add_argument("--out", type=Path, help="instead of results/quantization.json beside this script")
    args = parser.parse_args()
    args.out = args.out or (second_look_beside(args.ahead_in) if args.ahead_in else OUT)
    return args


def hold_torch_to(settings: dict[str, str]) -> None:
    """Start this program again with settings of the environment that torch reads when it is loaded.

    OpenVINO brings a oneDNN of its own, which would look for kernels that it does not have: once torch has
    made its choice nobody else is to see the settings.
    """
    if platform.machine() not in {"x86_64", "AMD64"}:
        return
    if not settings.items() <= os.environ.items():
        os.environ.update(settings)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    functional.conv2d(torch.ones(1, 16, 32, 32), torch.ones(16, 16, 3, 3))
    for name in settings:
        del os.environ[name]


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.kernels == "avx2":
        hold_torch_to(AVX2)
    main(arguments)
