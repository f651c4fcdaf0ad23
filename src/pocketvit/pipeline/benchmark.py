"""Time exported files beside a MobileNetV3 of the same input size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvit.benchmarking import Contestant, benchmark, mobilenet_baseline
from pocketvit.deployment import ExportedClassifier
from pocketvit.pipeline.load import exported_files

__all__ = ["benchmark_files"]

BASELINES = Path("~/.cache/pocketvit/baselines")
"""Where exported MobileNets are kept between runs."""


def benchmark_files(paths: Sequence[Path], *, threads: Sequence[int] | None) -> dict[str, Any]:
    """Measure exported files, and a MobileNetV3 for each input size among them.

    Args:
        paths: exported files, or run directories, whose integer file is measured too.
        threads: thread counts; by default one and all cores.

    Returns:
        The content of `benchmark.json`.

    Raises:
        CheckpointError: a file is missing, damaged, or not written by pocketvit.
        RunError: a run has not been exported.
    """
    files = [file for path in paths for file in exported_files(path)]
    ours = [Contestant.of_file(file, role="ours") for file in files]
    if len({(contestant.name, contestant.precision) for contestant in ours}) < len(ours):
        ours = [replace(contestant, name=f"{contestant.name} ({contestant.path})") for contestant in ours]
    inputs = {
        contestant.resolution: len(ExportedClassifier.load(contestant.path).card.classes)
        for contestant in ours
    }
    baselines = [
        mobilenet_baseline(size=size, num_classes=num_classes, folder=BASELINES.expanduser())
        for size, num_classes in inputs.items()
    ]
    return benchmark([*ours, *baselines], threads=threads)
