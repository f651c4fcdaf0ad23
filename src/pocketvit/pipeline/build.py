"""The main job: a short list of stages, each written to the run directory and never computed twice."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.markup import escape

from pocketvit.core.config import parse_config
from pocketvit.core.console import console
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData
from pocketvit.pipeline import stages
from pocketvit.pipeline.config import BuildConfig
from pocketvit.pipeline.quantize import quantize_in_run
from pocketvit.quantization import QuantizationSpec
from pocketvit.quantization.mixed import WeightBudget
from pocketvit.reporting import summary_table, write_report

__all__ = ["build", "command_line", "export_run", "quantize_run", "train_only"]


TRAINING = (stages.read_data, stages.choose_model, stages.train_network, stages.evaluate_network)
DEPLOYMENT = (stages.export_model, stages.quantize_model, stages.benchmark_model)


def build(config: BuildConfig, *, overwrite: bool = False) -> RunDirectory:
    """From labelled images to a verified model file and a report.

    Args:
        config: what to build from what.
        overwrite: discard what an earlier run left in the run directory.

    Returns:
        The run directory with everything in it.

    Raises:
        PocketvitError: any of them; see `pocketvit.core.errors`.
    """
    return _run(config, TRAINING + DEPLOYMENT, overwrite=overwrite)


def train_only(config: BuildConfig, *, overwrite: bool = False) -> RunDirectory:
    """The stages of `build` as far as the evaluated network; arguments and errors as there."""
    return _run(config, TRAINING, overwrite=overwrite)


def export_run(
    path: Path, *, target: str, precision: str, tolerance: float | None, copy_to: Path | None
) -> None:
    """Export the network of a trained run, verify the file, and refresh the report.

    Raises:
        RunError: `path` holds no run, or one that is not trained yet.
        VerificationError: the file does not compute what the network computes.
    """
    run = RunDirectory.open(path)
    run.read("evaluation.json")  # a run that is not trained yet says so here
    saved = {**run.read("run.json")["config"], "out": path, "target": target, "precision": precision}
    if tolerance is not None:
        saved["tolerance"] = tolerance
    config = parse_config(BuildConfig, saved, where=str(path / "run.json"))
    with run.locked():
        job = stages.Job(run=run, config=config)
        stages.read_data(job)
        stages.choose_model(job)
        stages.export_model(job)
        write_report(run)
    if copy_to is not None:
        copy_to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.onnx, copy_to)
    console.print(f"Verified: {escape(str(copy_to or run.onnx))}")


def quantize_run(
    path: Path,
    images: ImageData,
    spec: QuantizationSpec,
    *,
    calibration: int,
    diagnosis: bool,
    budget: WeightBudget | None = None,
) -> dict[str, Any]:
    """Quantize the network of a trained run, and refresh the report; timings too, where there are any.

    Returns:
        The content of `quantization.json`.

    Raises:
        RunError: `path` holds no trained network.
        PocketvitError: as `pocketvit.pipeline.quantize.quantize_to_folder`.
    """
    run = RunDirectory.open(path)
    with run.locked():
        content = quantize_in_run(
            run, images, spec, calibration=calibration, diagnosis=diagnosis, budget=budget
        )
        if run.has("benchmark.json") and run.onnx.is_file():
            saved = {**run.read("run.json")["config"], "out": path}
            config = parse_config(BuildConfig, saved, where=str(path / "run.json"))
            stages.benchmark_model(stages.Job(run=run, config=config))
        report = write_report(run)
    console.print(f"Report: [bold]{escape(str(report.resolve()))}[/]")
    return content


def _run(
    config: BuildConfig, work: tuple[Callable[[stages.Job], None], ...], *, overwrite: bool
) -> RunDirectory:
    run = RunDirectory(config.run_path)
    with run.locked():
        if overwrite:
            run.clear()
        stages.refuse_other_settings(run, config)
        run.begin(
            command=command_line(),
            config=config.model_dump(mode="json", exclude={"out"}),
            seed=config.seed,
        )
        console.print(f"Run directory: [bold]{escape(str(run.path))}[/]")
        job = stages.Job(run=run, config=config)
        for stage in work:
            stage(job)
        report = write_report(run)
        console.print(summary_table(run), soft_wrap=False)
        console.print(f"Report: [bold]{escape(str(report.resolve()))}[/]")
    return run


def command_line() -> str:
    """What was typed: of the console script without its folder, of any other program as it was called."""
    program, *words = sys.argv
    start = ["pocketvit"] if Path(program).stem == "pocketvit" else ["python", program]
    return shlex.join([*start, *words])
