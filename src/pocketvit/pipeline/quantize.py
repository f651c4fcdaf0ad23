"""From a trained network to a verified integer file, or to a measured simulation of one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import Tensor

from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.console import console, progress_bar
from pocketvit.core.errors import ConfigError
from pocketvit.core.files import sha256_of, write_json
from pocketvit.core.machine import choose_device, versions
from pocketvit.core.rundir import QUANTIZATION, RunDirectory
from pocketvit.data import ImageData, ImageSplit
from pocketvit.data.loader import make_loader
from pocketvit.data.partition import balanced_sample
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment.integer_delivery import deploy_integer
from pocketvit.deployment.integer_verification import open_integer
from pocketvit.deployment.onnx import frozen_copy
from pocketvit.deployment.openvino import require_openvino
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.deployment.targets import TARGETS
from pocketvit.pipeline.stage import key_of, run_stage
from pocketvit.pipeline.subject import Subject, load_subject
from pocketvit.quantization import METHODS, Calibration, QuantizationSpec, QuantizedNetwork, quantize
from pocketvit.quantization.diagnosis import diagnose
from pocketvit.quantization.methods import get_method
from pocketvit.quantization.mixed import WeightBudget, describe_widths
from pocketvit.quantization.quantize import operators_to_quantize
from pocketvit.quantization.spec import MIXED
from pocketvit.tasks import ModelCard
from pocketvit.tasks.classification import wilson_interval
from pocketvit.tasks.evaluation import Predict, torch_predictor

__all__ = [
    "Simulation",
    "calibration_images",
    "deliverable",
    "describe_operators",
    "file_name",
    "quantize_in_run",
    "quantize_to_folder",
    "simulate",
]

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A network that computes in float what integers would compute.

    Attributes:
        content: what `quantization.json` says of it.
        guesses: the class it gives each held-out image, (N,).
        truth: the true ones.
    """

    network: QuantizedNetwork
    content: dict[str, Any]
    guesses: Tensor
    truth: Tensor


def simulate(
    subject: Subject,
    images: ImageData,
    spec: QuantizationSpec,
    *,
    calibration: int,
    diagnosis: bool,
    budget: WeightBudget | None = None,
) -> Simulation:
    """Quantize a network by a few training images, and measure it beside itself on the held-out ones.

    Args:
        images: labels index the network's classes.
        calibration: how many training images; `spec.seed` draws them from all classes.
        diagnosis: whether to find out what each operator costs, which takes as long again.
        budget: chooses a width for each operator's weights, in the place of `spec.weights`.

    Raises:
        UnknownNameError: no such method.
        ConfigError: a pattern of `keep_float` matches nothing, or a budget that is too small.
        DataError: the calibration images cannot be used, or the network computes no finite numbers.
        ExportError: the network cannot be traced into a graph.
    """
    method, card = get_method(spec.method), subject.card
    drawn = calibration_images(images.train, card, n=calibration, seed=spec.seed)
    prepared = prepare_for_quantization(subject.network, size=card.preprocessing.size)
    began = time.perf_counter()
    if budget is not None:
        spec = budget.choose(prepared, drawn, spec)
    network = quantize(prepared, spec, drawn)
    seconds = time.perf_counter() - began
    predictors = {
        "float": torch_predictor(frozen_copy(subject.network), choose_device("cpu")),
        "simulated": torch_predictor(network, choose_device("cpu")),
    }
    guesses, truth = _classified(predictors, images.val, card)
    assert drawn.labels is not None
    content = {
        "method": {key: getattr(method, key) for key in ("name", "title", "source", "integer")},
        "label": spec.label,
        "spec": spec.model_dump(mode="json"),
        "calibration": {
            "n": len(drawn.images),
            "classes": len(drawn.labels.unique()),
            "of": len(card.classes),
            "seed": spec.seed,
        },
        "seconds": round(seconds, 2),
        "n": len(truth),
        "accuracy": {name: _accuracy(found, truth) for name, found in guesses.items()},
        "agreement": {"simulated_float": _share(guesses["simulated"] == guesses["float"])},
        "quantized": _quantized(network),
    }
    if budget is not None:
        content["mixed"] = describe_widths(prepared, spec, budget)
    if diagnosis:
        content["diagnosis"] = diagnose(network, drawn, reference=prepared).to_dict()
    return Simulation(network=network, content=content, guesses=guesses["simulated"], truth=truth)


def quantize_to_folder(
    subject: Subject,
    images: ImageData,
    spec: QuantizationSpec,
    *,
    calibration: int,
    folder: Path,
    diagnosis: bool = True,
    budget: WeightBudget | None = None,
) -> dict[str, Any]:
    """The same, and write the verified integer file and `quantization.json` into `folder`.

    Returns:
        The content of `quantization.json`.

    Raises:
        ConfigError: this method's numbers are no integers that a kernel executes.
        ExportError: an operator that no integer kernel executes, named.
        VerificationError: the file does not classify as the simulation does.
        StorageError: the disk is full or not writable.
    """
    spec = deliverable(spec)
    simulation = simulate(subject, images, spec, calibration=calibration, diagnosis=diagnosis, budget=budget)
    content, truth = simulation.content, simulation.truth
    card = replace(
        subject.card,
        accuracy=content["accuracy"]["simulated"]["value"],
        precision=_precision(spec, budget),
    )
    cost = measure_complexity(subject.network, card.preprocessing.size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(spec, budget)
    content |= deploy_integer(
        simulation.network, path, card=card, images=images.val, more_images=images.train, cost=asdict(cost)
    )
    guesses, _ = _classified({"file": open_integer(path, runtime=content["runtime"])}, images.val, card)
    content["accuracy"]["file"] = _accuracy(guesses["file"], truth)
    content["agreement"]["file_simulated"] = _share(guesses["file"] == simulation.guesses)
    content["float_bytes"] = _float_bytes(folder)
    write_json(folder / QUANTIZATION, content)
    return content


def quantize_in_run(
    run: RunDirectory,
    images: ImageData,
    spec: QuantizationSpec,
    *,
    calibration: int,
    diagnosis: bool = True,
    budget: WeightBudget | None = None,
) -> dict[str, Any]:
    """The same in a run, as a stage: what is there already for the same settings is reused.

    A run has one integer file, the one that its `quantization.json`, timings and report speak of: a new one
    of other widths takes the place of the old.
    """
    spec = deliverable(spec)
    inputs = {
        "weights": sha256_of(run.checkpoints / "model.safetensors"),
        "data": images.fingerprint,
        "split": images.split_rule,
        "spec": spec.model_dump(mode="json"),
        "budget": None if budget is None else asdict(budget),
        "calibration": calibration,
        "diagnosis": diagnosis,
        "versions": versions(),
    }

    def work() -> None:
        subject = load_subject(str(run.path))
        earlier = run.read(QUANTIZATION)["file"] if run.has(QUANTIZATION) else None
        content = quantize_to_folder(
            subject,
            images,
            spec,
            calibration=calibration,
            folder=run.path,
            diagnosis=diagnosis,
            budget=budget,
        )
        if earlier not in (None, content["file"]):
            (run.path / earlier).unlink(missing_ok=True)
            console.print(f"  {escape(earlier)} is gone: a run has one integer file; --out FOLDER keeps more")
        found = content["accuracy"]
        console.print(
            f"  {escape(content['file'])}: top-1 {found['file']['value']:.1%} in integers, "
            f"{found['float']['value']:.1%} in float, on {content['n']} images"
        )

    run_stage(run, "quantize", work, key=key_of(inputs), writes=[file_name(spec, budget), QUANTIZATION])
    return run.read(QUANTIZATION)


def describe_operators(subject: Subject, spec: QuantizationSpec) -> list[dict[str, Any]]:
    """A row for each operator in the order they run: what it is, and whether `spec` would quantize it.

    Raises:
        ConfigError: a pattern of `keep_float` matches nothing.
        ExportError: the network cannot be traced into a graph.
    """
    network = prepare_for_quantization(subject.network, size=subject.card.preprocessing.size)
    chosen = set(operators_to_quantize(network, spec))
    return [
        {
            "operator": name,
            "kind": operator.kind,
            "scope": "partial" if operator.in_partial_scope else "full",
            "parameters": 0 if operator.weight is None else operator.weight.numel(),
            "quantized": operator in chosen,
        }
        for name, operator in network.operators.items()
    ]


def calibration_images(split: ImageSplit, card: ModelCard, *, n: int, seed: int) -> Calibration:
    """`n` images of all classes, prepared as for evaluation.

    Raises:
        DataError: none, or only of one class.
    """
    keys = [split.key(i) for i in range(len(split))]
    chosen = balanced_sample(split.labels, keys, n=n, seed=seed)
    prepare, size = eval_transform(card.preprocessing), card.preprocessing.size
    images = [prepare(split.load(i)) for i in chosen]
    return Calibration(
        images=torch.stack(images) if images else torch.empty(0, 3, size, size),
        labels=torch.tensor([split.labels[i] for i in chosen], dtype=torch.int64),
    )


def deliverable(spec: QuantizationSpec) -> QuantizationSpec:
    """`spec` with the runtime that a file is for; stops before the work where no file could come of it.

    Raises:
        ConfigError: this method's numbers are no integers that a kernel executes, or the runtime that has to
            verify the file is not installed.
    """
    method = get_method(spec.method)
    if not method.integer:
        variant = f"{method.name}_integer"
        others = f"pocket, or {variant}" if variant in METHODS else "pocket"
        raise ConfigError(
            f"'{method.name}' chooses numbers that no integer kernel computes with, so there can be no file.",
            fix=f"Choose --method {others}; or measure it with --simulate.",
        )
    if spec.runtime == "openvino":
        require_openvino()
    return spec if spec.runtime else spec.model_copy(update={"runtime": TARGETS["onnx"].runtime})


def file_name(spec: QuantizationSpec, budget: WeightBudget | None = None) -> str:
    """`model.int8.onnx` where all widths are 8, `model.w4a8.onnx` or `model.mixed.onnx` where they differ.

    A file for OpenVINO says so: `model.int8.openvino.onnx`.
    """
    runtime = f".{spec.runtime}" if spec.runtime == "openvino" else ""
    return f"model.{_precision(spec, budget)}{runtime}.onnx"


def _precision(spec: QuantizationSpec, budget: WeightBudget | None) -> str:
    return spec.precision if budget is None else MIXED


def _classified(
    predictors: Mapping[str, Predict], split: ImageSplit, card: ModelCard
) -> tuple[dict[str, Tensor], Tensor]:
    """The class that each predictor gives each image, (N,) by name, and the true ones."""
    loader = make_loader(split, eval_transform(card.preprocessing), batch_size=_BATCH, cache_bytes=0)
    guesses: dict[str, list[Tensor]] = {name: [] for name in predictors}
    truth: list[Tensor] = []
    with progress_bar() as bar:
        for images, labels, _ in bar.track(loader, description="measuring", total=len(loader)):
            for name, predict in predictors.items():
                guesses[name].append(predict(images).argmax(1))
            truth.append(labels)
    return {name: torch.cat(found) for name, found in guesses.items()}, torch.cat(truth)


def _accuracy(guesses: Tensor, truth: Tensor) -> dict[str, float]:
    found = wilson_interval(int((guesses == truth).sum()), len(truth))
    return {key: round(value, 6) for key, value in asdict(found).items()}


def _share(hits: Tensor) -> float:
    return round(hits.double().mean().item(), 6)


def _quantized(network: QuantizedNetwork) -> dict[str, dict[str, int]]:
    """For each kind of operator how many are quantized, and how many compute in float."""
    counts: dict[str, dict[str, int]] = {}
    for operator in network.operators.values():
        row = counts.setdefault(operator.kind, {"quantized": 0, "float": 0})
        row["quantized" if operator.has_quantizers else "float"] += 1
    return counts


def _float_bytes(folder: Path) -> int | None:
    """Size of the float file beside it, where there is one."""
    path = folder / "model.onnx"
    return path.stat().st_size if path.is_file() else None
