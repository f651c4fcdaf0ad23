"""The stages of the main job; what each computes from, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

from pocketvit.backbones import BuildOptions, ModelEntry, Preprocessing, create_model, get_entry
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.core.config import parse_config
from pocketvit.core.console import console
from pocketvit.core.errors import RunError
from pocketvit.core.files import sha256_of
from pocketvit.core.machine import choose_device, hardware, versions
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData, open_images
from pocketvit.data.loader import make_loader
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment import deploy
from pocketvit.pipeline.benchmark import benchmark_files
from pocketvit.pipeline.config import BuildConfig
from pocketvit.pipeline.load import exported_files, load_network
from pocketvit.pipeline.quantize import quantize_in_run
from pocketvit.pipeline.stage import key_of, run_stage
from pocketvit.quantization import QuantizationSpec
from pocketvit.reporting.tables import candidates_table
from pocketvit.scaling import choose_model as choose_under_budget
from pocketvit.tasks import ClassificationTask, evaluate
from pocketvit.tasks.evaluation import Batch, torch_predictor
from pocketvit.training import Recipe, choose_recipe, load_recipe, train

__all__ = [
    "Job",
    "benchmark_model",
    "choose_model",
    "evaluate_network",
    "export_model",
    "quantize_model",
    "read_data",
    "refuse_other_settings",
    "train_network",
]

EVAL_BATCH = 64

CALIBRATION = 32
"""Training images that the integers are chosen by."""

_NOT_FOR_TRAINING = {"out", "device", "max_damaged", "target", "precision", "tolerance", "threads", "bits"}
"""Settings that may change between two calls on one run directory without training again."""


@dataclass
class Job:
    """A run directory, its settings, and what the stages share in memory."""

    run: RunDirectory
    config: BuildConfig

    @cached_property
    def data(self) -> ImageData:
        """The images, read once."""
        config = self.config
        return open_images(
            config.data,
            val_fraction=config.val_fraction,
            seed=config.seed,
            limit=config.limit,
            max_damaged=config.max_damaged,
        )

    @cached_property
    def recipe(self) -> Recipe:
        """How to train."""
        name, why = self.config.recipe, "as asked"
        if name is None:
            name, why = choose_recipe(self.data)
        console.print(f"  recipe: {escape(name)} ({why})")
        return load_recipe(name, {**self.config.settings, "seed": self.config.seed})

    @property
    def entry(self) -> ModelEntry:
        """The chosen architecture."""
        return get_entry(self.run.read("model.json")["name"])

    @property
    def options(self) -> BuildOptions:
        """How that architecture is built."""
        return BuildOptions.from_dict(self.config.options)

    @property
    def preprocessing(self) -> Preprocessing:
        """From a decoded image to the chosen network's input."""
        return Preprocessing.from_dict(self.run.read("model.json")["preprocessing"])

    @cached_property
    def task(self) -> ClassificationTask:
        """Loss, decode and metrics."""
        return ClassificationTask(classes=self.data.classes)

    def held_out(self) -> Iterable[Batch]:
        """Batches of the validation images as a deployed model sees them."""
        # One pass only, so pixels are not worth keeping.
        return make_loader(
            self.data.val, eval_transform(self.preprocessing), batch_size=EVAL_BATCH, cache_bytes=0
        )

    @property
    def training_key(self) -> str:
        """Digest of everything the trained network depends on."""
        pretrained = Path(self.config.pretrained)
        return key_of(
            {
                "data": self.data.fingerprint,
                "split": self.data.split_rule,
                "model": self.entry.name,
                **self.options.to_dict(),
                "preprocessing": self.preprocessing.to_dict(),
                "recipe": self.recipe.model_dump(exclude={"name", "workers"}),
                "pretrained": sha256_of(pretrained) if pretrained.is_file() else self.config.pretrained,
            }
        )


def read_data(job: Job) -> None:
    """Read and check the images; always done, so that data that changed is noticed."""
    data = job.data
    job.run.write("data.json", data.summary())
    console.print(
        f"[green]✓[/] data: {escape(data.name)}, {len(data.train)} images to train, {len(data.val)} held out "
        f"({data.split_rule}), {len(data.classes)} classes"
    )
    if data.problems:
        console.print(f"[yellow]  {len(data.problems)} left out:[/]")
        for problem in data.problems[:5]:
            console.print(f"  {escape(problem.key)}: {escape(problem.problem)}")
        if len(data.problems) > 5:
            console.print(
                f"  and {len(data.problems) - 5} more; all are listed in {job.run.path / 'data.json'}"
            )


def choose_model(job: Job) -> None:
    """Pick the architecture; writes `model.json`."""
    config, data = job.config, job.data

    def work() -> None:
        choice = choose_under_budget(
            num_classes=len(data.classes),
            typical_size=data.typical_size,
            budget=config.budget,
            model=config.model,
            options=job.options,
            resolution=config.resolution,
        )
        entry = get_entry(choice.name)
        values = choice.to_dict()
        del values["name"]
        model = {
            "name": entry.name,
            "family": entry.family,
            "num_classes": len(data.classes),
            "options": job.options.to_dict(),
            "code_licence": entry.code_licence,
            "weights_licence": entry.weights_licence,
            "source": entry.source,
            "preprocessing": _input_rules(entry, choice.resolution, data.typical_size).to_dict(),
            **values,
        }
        job.run.write("model.json", model)
        console.print(candidates_table(model), soft_wrap=False)
        console.print(escape(choice.reason))

    inputs = {
        "classes": len(data.classes),
        "typical_size": data.typical_size,
        "macs": config.budget.macs,
        "params": config.budget.params,
        "model": config.model,
        **job.options.to_dict(),
        "resolution": config.resolution,
        "version": versions()["pocketvit"],
    }
    run_stage(job.run, "model", work, key=key_of(inputs), writes=["model.json"])


def train_network(job: Job) -> None:
    """Train, or go on training; writes `training.json`, `metrics.jsonl` and `checkpoints/`."""
    key = job.training_key
    record = _training_record(job.run)
    if record and record["key"] != key:
        raise RunError(
            f"{job.run.path} holds a network trained on other data or by another version's recipe.",
            fix="Give --out another folder, or --overwrite to train again.",
        )

    def work() -> None:
        torch.manual_seed(job.config.seed)  # of the initial weights
        classes, options = len(job.data.classes), job.options
        network = create_model(job.entry.name, num_classes=classes, **options.to_dict())
        source = job.config.pretrained
        weights = source if source == "auto" or source == "none" else Path(source)
        pretrained = load_pretrained(network, job.entry, weights)
        console.print(escape(pretrained.message))
        train(
            network,
            job.data,
            job.preprocessing,
            job.recipe,
            job.run,
            task=job.task,
            device=choose_device(job.config.device),
            resume=bool(record),
            model_name=job.entry.name,
            pretrained=pretrained,
            options=options,
        )

    writes = ["training.json", "metrics.jsonl", "checkpoints/model.safetensors", "checkpoints/model.json"]
    run_stage(job.run, "train", work, key=key, writes=writes)


def evaluate_network(job: Job) -> None:
    """Score the trained network on the held-out images; writes `evaluation.json`."""

    def work() -> None:
        network, _ = load_network(job.run)
        predict = torch_predictor(network, choose_device("cpu"))
        result = evaluate(predict, job.held_out(), job.task, split=job.data.val)
        job.run.write("evaluation.json", result.to_dict())

    run_stage(job.run, "evaluate", work, key=key_of({"train": job.training_key}), writes=["evaluation.json"])


def export_model(job: Job) -> None:
    """Export and verify the trained network; writes `model.onnx` and `export.json`."""
    config = job.config

    def work() -> None:
        network, card = load_network(job.run)
        export = deploy(
            network,
            job.run.path,
            card=card,
            images=job.data.val,
            target=config.target,
            precision=config.precision,
            tolerance=config.tolerance,
        )
        job.run.write("export.json", export)
        found = export["verification"]
        console.print(
            f"  verified on {found['n']} images: largest logit difference {found['max_abs_diff']:.2g}, "
            f"same class for {found['top1_agreement']:.1%}"
        )

    inputs = {
        "train": job.training_key,
        "target": config.target,
        "precision": config.precision,
        "tolerance": config.tolerance,
    }
    run_stage(job.run, "export", work, key=key_of(inputs), writes=["model.onnx", "export.json"])


def quantize_model(job: Job) -> None:
    """Quantize the network where `bits` asks for it; writes an integer file and `quantization.json`."""
    if job.config.bits is None:
        return
    bits, seed = job.config.bits, job.config.seed
    spec = QuantizationSpec(weights=bits, activations=bits, seed=seed)
    quantize_in_run(job.run, job.data, spec, calibration=CALIBRATION)


def benchmark_model(job: Job) -> None:
    """Time the exported file, and the integer file if there is one, beside a MobileNet; `benchmark.json`."""
    files = exported_files(job.run.path)

    def work() -> None:
        job.run.write("benchmark.json", benchmark_files(files, threads=job.config.threads))

    inputs = {
        "file": " ".join(sha256_of(file) for file in files),
        "threads": job.config.threads,
        "hardware": hardware(),
        "versions": versions(),
    }
    run_stage(job.run, "benchmark", work, key=key_of(inputs), writes=["benchmark.json"])


def refuse_other_settings(run: RunDirectory, config: BuildConfig) -> None:
    """Stop before a run trained with other settings would be mixed with this one.

    Raises:
        RunError: names the settings that differ.
    """
    if not run.has("run.json") or not _training_record(run):
        return
    saved = parse_config(BuildConfig, run.read("run.json")["config"], where=str(run.path / "run.json"))
    before, now = (each.model_dump(mode="json", exclude=_NOT_FOR_TRAINING) for each in (saved, config))
    changed = [
        f"{name}: {before[name]} before, {value} now"
        for name, value in now.items()
        if _without_workers(before[name]) != _without_workers(value)
    ]
    if changed:
        raise RunError(
            f"{run.path} was started with other settings ({'; '.join(changed)}).",
            fix="Give --out another folder, --overwrite to start again, or --resume to keep its settings.",
        )


def _training_record(run: RunDirectory) -> dict[str, Any] | None:
    """The record of a training that left something: one that failed before its first checkpoint did not."""
    record = run.stage("train")
    return record if record and ("wrote" in record or any(run.checkpoints.glob("step-*.json"))) else None


def _input_rules(entry: ModelEntry, resolution: int, typical_size: int) -> Preprocessing:
    rules = entry.preprocessing.at(resolution)
    if typical_size > resolution:
        return rules
    # Images that have to be enlarged anyway have no pixels to spare for a centre crop.
    return replace(rules, crop=1.0)


def _without_workers(value: Any) -> Any:
    return {k: v for k, v in value.items() if k != "workers"} if isinstance(value, dict) else value
