"""The JSON files of a run directory, as far as its stages have come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvit.core.rundir import RunDirectory

__all__ = ["STAGES", "RunFiles", "read_run"]

STAGES = {
    "data": "reading the images",
    "model": "choosing the model",
    "training": "training",
    "evaluation": "measuring the accuracy",
    "export": "writing the model file",
    "benchmark": "measuring the speed",
}
"""What each result file of a run holds, in words; the file's name is the key with `.json`."""

_RECORDED_AS = {"training": "train", "evaluation": "evaluate", "quantization": "quantize"}
"""Stages that `run.json` names by their verb."""

_OPTIONAL = ("quantization",)
"""Result files of stages that not every job has."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What each stage wrote; `None` for a stage that has not finished. The schemas are those of the files.

    Attributes:
        quantization: about the integer file, where one was asked for; not among `STAGES`.
    """

    name: str
    run: dict[str, Any]
    data: dict[str, Any] | None
    model: dict[str, Any] | None
    training: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    export: dict[str, Any] | None
    benchmark: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    quantization: dict[str, Any] | None = None

    @property
    def missing(self) -> list[str]:
        """Keys of `STAGES` that have not finished, in order."""
        return [stage for stage in STAGES if getattr(self, stage) is None]


def read_run(run: RunDirectory) -> RunFiles:
    """Read every result file that is there.

    The file of a stage that was begun again and has not finished is old, and is left out.

    Raises:
        RunError: `run.json` is missing, or a file is damaged.
    """
    overview = run.read("run.json")
    begun = {name for name, record in overview["stages"].items() if "wrote" not in record}
    results = {
        stage: run.read(f"{stage}.json")
        if run.has(f"{stage}.json") and _RECORDED_AS.get(stage, stage) not in begun
        else None
        for stage in (*STAGES, *_OPTIONAL)
    }
    return RunFiles(name=run.path.resolve().name, run=overview, metrics=run.read_metrics(), **results)
