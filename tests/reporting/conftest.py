"""Run directories as the stages write them, small enough to render in milliseconds."""

from __future__ import annotations

import base64
import copy
import io
import math
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pocketvit.core.rundir import RunDirectory

FLOWERS = ("daisy", "dandelion", "foxglove", "iris", "lily", "orchid", "poppy", "rose", "sunflower", "tulip")
VOID = {"meta", "link", "img", "br", "hr", "wbr", "input"}


def picture(index: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (40 * index % 256, 90, 200 - 20 * index % 200)).save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def wilson(right: int, n: int) -> dict[str, float]:
    """Wilson's 95% interval, so that fixture numbers hang together as real ones do."""
    z, p = 1.96, right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {
        "value": round(p, 6),
        "low": round(max(middle - half, 0), 6),
        "high": round(min(middle + half, 1), 6),
    }


def results(
    classes: tuple[str, ...] = FLOWERS, *, per_class: int = 40, wrong: int = 3, epochs: int = 12
) -> dict[str, Any]:
    """Contents of every JSON file; each class has `wrong` images taken for a later class."""
    k = len(classes)
    confusion = [[0] * k for _ in range(k)]
    for i, row in enumerate(confusion):
        row[i] = per_class
        for step in range(1, wrong + 1):
            row[i] -= 1
            row[(i + 1 + (step * i) % max(k - 1, 1)) % k] += 1
    right, n = sum(confusion[i][i] for i in range(k)), k * per_class
    answered = [sum(row[j] for row in confusion) for j in range(k)]
    rows = [
        {
            "name": name,
            "n": per_class,
            "recall": round(confusion[i][i] / per_class, 4),
            "precision": round(confusion[i][i] / answered[i], 4) if answered[i] else 0.0,
        }
        for i, name in enumerate(classes)
    ]
    evaluation: dict[str, Any] = {
        "split": "val",
        "n": n,
        "loss": 0.2311,
        "top1": wilson(right, n),
        "interval": "Wilson 95%",
        "per_class": rows,
        "confusion": confusion,
        "mistakes": [
            {
                "key": f"val/{classes[i % k]}/img_{i:04d}.jpg",
                "true": classes[i % k],
                "predicted": classes[(i + 1) % k],
                "confidence": round(0.991 - 0.03 * i, 4),
                "image": picture(i),
            }
            for i in range(min(8, n - right))
        ],
    }
    if k >= 6:
        evaluation["top5"] = wilson(n - 1, n)
    preprocessing = {
        "size": 64,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "interpolation": "bicubic",
        "crop": 0.875,
        "channels": "rgb",
    }
    hardware = {
        "cpu": "Example CPU @ 2.10GHz",
        "cores": 2,
        "memory_gib": 7.8,
        "gpu": None,
        "system": "Linux x86_64",
    }
    versions = {"pocketvit": "0.1.0", "python": "3.11.9", "torch": "2.15.0", "timm": "1.0.31"}
    return {
        "run.json": {
            "format": 1,
            "created": "2026-01-02T10:00:00+00:00",
            "updated": "2026-01-02T10:31:00+00:00",
            "command": "pocketvit build flowers --macs 100M",
            "config": {"data": "flowers", "macs": 100_000_000, "model": None, "settings": {"epochs": epochs}},
            "seed": 0,
            "versions": versions,
            "hardware": hardware,
            "stages": {
                name: {"seconds": seconds, "finished": "2026-01-02T10:30:00+00:00", "key": "k", "wrote": []}
                for name, seconds in (
                    ("data", 1.21),
                    ("model", 0.84),
                    ("train", 1743.2),
                    ("evaluate", 6.1),
                    ("export", 9.4),
                    ("benchmark", 31.0),
                )
            },
        },
        "data.json": {
            "name": "flowers",
            "source": "flowers/",
            "classes": list(classes),
            "counts": {"train": [4 * per_class] * k, "val": [per_class] * k},
            "n_train": 4 * n,
            "n_val": n,
            "split_rule": "stratified 80/20, seed 0",
            "fingerprint": "3f9a" * 16,
            "typical_size": 240,
            "checked": 5 * n,
            "problems": [],
        },
        "model.json": {
            "name": "mobilevitv2_050",
            "family": "mobilevitv2",
            "resolution": 64,
            "num_classes": k,
            "params": 1_113_871,
            "macs": 38_219_416,
            "code_licence": "Apache-2.0",
            "weights_licence": "Apple sample-code licence (not open source)",
            "source": "arXiv:2206.02680",
            "options": {},
            "preprocessing": preprocessing,
            "budget": {"macs": 100_000_000, "params": None},
            "reason": "mobilevitv2_050 has the most MACs of the 2 models that fit 100 M MACs at 64 px.",
            "candidates": [
                {
                    "name": "mobilevitv2_050",
                    "resolution": 64,
                    "params": 1_113_871,
                    "macs": 38_219_416,
                    "fits": True,
                    "chosen": True,
                    "note": "chosen",
                },
                {
                    "name": "mobilevit_xxs",
                    "resolution": 64,
                    "params": 951_000,
                    "macs": 21_000_000,
                    "fits": True,
                    "chosen": False,
                    "note": "fits, but mobilevitv2_050 is larger",
                },
                {
                    "name": "swiftformer_s",
                    "resolution": 64,
                    "params": 5_600_000,
                    "macs": 120_000_000,
                    "fits": False,
                    "chosen": False,
                    "note": "1.2× the MACs allowed",
                },
            ],
        },
        "training.json": {
            "recipe": {
                "lr": 0.002,
                "batch_size": 64,
                "epochs": epochs,
                "augmentation": {"flip": True, "crop_scale": [0.35, 1.0]},
                "mixup": None,
            },
            "pretrained": {
                "used": False,
                "source": "none",
                "licence": "",
                "message": "The hub could not be reached",
                "matched": 0,
            },
            "device": "cpu",
            "precision": "float32",
            "epochs": epochs,
            "best_epoch": max(1, epochs - 2),
            "weights": "ema",
            "seconds": 1740.2,
            "resumed": 0,
            "images_per_second": 131.4,
            "data_wait_share": 0.04,
            "skipped_steps": 0,
            "replaced_samples": [],
        },
        "metrics.jsonl": [
            {
                "epoch": e,
                "lr": round(0.001 * (1 + math.cos(math.pi * e / epochs)), 8),
                "train_loss": round(0.5 + 1.8 * math.exp(-3 * e / epochs), 4),
                "val_loss": round(0.25 + 1.9 * math.exp(-3.4 * e / epochs), 4),
                "val_top1": round(0.95 - 0.7 * math.exp(-3.2 * e / epochs), 4),
                "seconds": 145.0,
                "images_per_second": 131.4,
                "data_wait_share": 0.04,
            }
            for e in range(1, epochs + 1)
        ],
        "evaluation.json": evaluation,
        "export.json": {
            "file": "model.onnx",
            "format": "ONNX",
            "sha256": "ab12" * 16,
            "bytes": 4_481_223,
            "opset": 20,
            "runtime": "onnxruntime 1.31.1",
            "dynamic_batch": True,
            "nodes": 211,
            "seconds": 9.1,
            "cost_before_rewrites": {"params": 1_113_871, "macs": 38_219_416, "activations": 1_432_000},
            "rewrites": [
                {
                    "name": "fold_separable_norms",
                    "params_saved": 10_240,
                    "macs_saved": 0,
                    "activations_saved": 98_304,
                    "places": 12,
                },
                {
                    "name": "map_separable_attention",
                    "params_saved": 0,
                    "macs_saved": 2_211_840,
                    "activations_saved": -1_024,
                    "places": 3,
                },
            ],
            "metadata": {"model": "mobilevitv2_050", "preprocessing": preprocessing},
            "verification": {
                "n": 256,
                "max_abs_diff": 2.4e-6,
                "mean_abs_diff": 3.1e-7,
                "tolerance": 1e-4,
                "top1_agreement": 1.0,
                "min_agreement": 0.99,
                "accuracy_torch": 0.9297,
                "accuracy_exported": 0.9297,
                "passed": True,
            },
        },
        "benchmark.json": {
            "protocol": {
                "runtime": "onnxruntime 1.31.1",
                "warmup": 10,
                "iterations": 50,
                "rounds": 5,
                "interleaved": True,
                "batch": 1,
                "precision": "float32",
            },
            "hardware": hardware,
            "versions": versions,
            "rows": [
                _timing("mobilevitv2_050", "ours", 1, 3.24, 3.91, 88, 38_219_416, 1_113_871, 4_481_223),
                _timing(
                    "mobilenetv3_large_100", "baseline", 1, 1.80, 2.02, 96, 19_000_000, 4_214_842, 16_900_000
                ),
                _timing("mobilevitv2_050", "ours", 2, 2.10, 2.62, 91, 38_219_416, 1_113_871, 4_481_223),
                _timing(
                    "mobilenetv3_large_100", "baseline", 2, 1.31, 1.44, 99, 19_000_000, 4_214_842, 16_900_000
                ),
            ],
        },
    }


def _timing(
    name: str,
    role: str,
    threads: int,
    p50: float,
    p90: float,
    memory: float,
    macs: int,
    params: int,
    size: int,
) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "resolution": 64,
        "precision": "float32",
        "threads": threads,
        "p50_ms": p50,
        "p90_ms": p90,
        "min_ms": round(p50 * 0.93, 3),
        "peak_memory_mb": memory,
        "macs": macs,
        "params": params,
        "bytes": size,
    }


def write_run(path: Path, content: dict[str, Any]) -> RunDirectory:
    """A run directory with these files; a file whose content is `None` is left out."""
    run = RunDirectory(path)
    for name, value in copy.deepcopy(content).items():
        if name == "metrics.jsonl":
            for row in value or []:
                run.append_metrics(row)
        elif value is not None:
            run.write(name, value)
    return run


class Page(HTMLParser):
    """A parsed report: its tags, its text, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture
def make_results() -> Callable[..., dict[str, Any]]:
    return results


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[dict[str, Any]], RunDirectory]:
    return lambda content: write_run(tmp_path / "run", content)


@pytest.fixture
def parse() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def write_to() -> Callable[[Path, dict[str, Any]], RunDirectory]:
    return write_run
