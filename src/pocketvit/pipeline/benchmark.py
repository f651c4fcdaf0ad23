"""Time exported files beside a MobileNetV3 of the same input size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pocketvit.benchmarking import Contestant, benchmark, mobilenet_baseline
from pocketvit.deployment import ExportedClassifier
from pocketvit.deployment.openvino import has_bfloat16
from pocketvit.pipeline.load import exported_files

__all__ = ["benchmark_files"]

BASELINES = Path("~/.cache/pocketvit/baselines")
"""Where exported MobileNets are kept between runs."""


def benchmark_files(paths: Sequence[Path], *, threads: Sequence[int] | None) -> dict[str, Any]:
    """Measure exported files, and a MobileNetV3 for each input size among them.

    Each file in the runtime it was made for; where that is OpenVINO the float files are also measured there.

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
    return benchmark(_in_their_runtimes([*ours, *baselines]), threads=threads)


def _in_their_runtimes(contestants: Sequence[Contestant]) -> list[Contestant]:
    """All of them; and where one is for OpenVINO, the float files there too, also in bfloat16 if it can."""
    if all(contestant.runtime == "onnxruntime" for contestant in contestants):
        return list(contestants)
    in_float = [contestant for contestant in contestants if contestant.precision == "float32"]
    again = [replace(contestant, runtime="openvino") for contestant in in_float]
    if has_bfloat16():
        again += [replace(c, runtime="openvino_bf16", precision="bfloat16") for c in in_float]
    return [*contestants, *again]
