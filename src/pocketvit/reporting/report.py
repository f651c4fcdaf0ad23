"""`report.html`: one file that needs no network, no script and no knowledge of the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.core.files import write_text
from pocketvit.core.rundir import RunDirectory
from pocketvit.reporting import charts, format, sections
from pocketvit.reporting.diagnosis import diagnosis_section
from pocketvit.reporting.notices import clean_record, notices
from pocketvit.reporting.quantized import integer_section
from pocketvit.reporting.savings import savings
from pocketvit.reporting.source import STAGES, RunFiles, read_run
from pocketvit.reporting.speed import comparisons, threads
from pocketvit.reporting.usage import onnx_snippet, predict_command
from pocketvit.reporting.widths import widths_section

__all__ = ["render_report", "write_report"]

_FILTERS = (
    "count",
    "duration",
    "file_size",
    "four_digits",
    "integer",
    "interval",
    "milliseconds",
    "model_name",
    "percent",
    "tiny",
)


def write_report(run: RunDirectory) -> Path:
    """Render `report.html` from the run directory's JSON files; stages that have not run are named as such.

    Returns:
        The file written.

    Raises:
        RunError: `run.json` is missing, or a JSON file is damaged.
        StorageError: the disk is full or the folder cannot be written.
    """
    write_text(run.report, render_report(read_run(run)))
    return run.report


def render_report(files: RunFiles) -> str:
    """The report as HTML. Every string from the files is escaped: class and file names are not trusted."""
    return _environment().get_template("report.html.jinja").render(**_content(files))


def _content(files: RunFiles) -> dict[str, Any]:
    evaluation, benchmark, model, training = files.evaluation, files.benchmark, files.model, files.training
    return {
        "files": files,
        "stages": STAGES,
        "notices": notices(files),
        "clean_record": clean_record(files),
        "threads": threads,
        "class_list": sections.class_list,
        "verified_words": sections.verified_words,
        "title": (model or {}).get("name", files.name),
        "classes": _classes(files),
        "main_row": sections.main_row(benchmark) if benchmark else None,
        "curves": sections.curves(files),
        "chart_size": (charts.WIDTH, charts.HEIGHT),
        "matrix": _matrix(evaluation),
        "columns": sections.column_names(evaluation) if evaluation else [],
        "level": sections.short_columns(sections.column_names(evaluation)) if evaluation else False,
        "pairs": sections.confused_pairs(evaluation, most=20) if evaluation else [],
        "per_class": sections.per_class_rows(files),
        "mistakes": sections.shown_mistakes(evaluation) if evaluation else [],
        "bars": sections.latency_bars(benchmark) if benchmark else [],
        "costs": sections.costs(benchmark) if benchmark else [],
        "comparisons": comparisons(benchmark) if benchmark else [],
        "candidates": sections.shown_candidates(model) if model else ([], []),
        "recipe": sections.settings_of(training["recipe"]) if training else [],
        "config": sections.settings_of(files.run["config"]),
        "savings": savings(files.export),
        "quantization": files.quantization,
        "integer": integer_section(files.quantization, files.export),
        "widths": widths_section(files.quantization),
        "diagnosis": diagnosis_section(files.quantization),
        "options": sections.settings_of((model or {}).get("options", {})),
        "metadata": sections.settings_of(files.export["metadata"]) if files.export else [],
        "command": predict_command(files.export["file"]) if files.export else "",
        "snippet": _snippet(files),
        "versions": ", ".join(f"{name} {version}" for name, version in files.run["versions"].items()),
    }


def _classes(files: RunFiles) -> list[str]:
    if files.data:
        return list(files.data["classes"])
    return [row["name"] for row in files.evaluation["per_class"]] if files.evaluation else []


def _matrix(evaluation: dict[str, Any] | None) -> list[list[sections.Cell]]:
    readable = evaluation is not None and len(evaluation["per_class"]) <= sections.MATRIX_LIMIT
    return sections.confusion_cells(evaluation) if evaluation and readable else []


def _snippet(files: RunFiles) -> str:
    if files.export is None or files.model is None:
        return ""
    return onnx_snippet(files.export["file"], Preprocessing.from_dict(files.model["preprocessing"]))


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pocketvit.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(format, name) for name in _FILTERS})
    environment.filters.update(
        code_marks=_code_marks,
        breakable=_breakable,
        preparation=_preparation,
        capitalize_first=_capitalize_first,
    )
    return environment


def _code_marks(text: str) -> Markup:
    """Escape `text`, then set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped just here


def _breakable(path: str) -> Markup:
    """Escape `path` and let its lines break after a slash, a dot or an underscore."""
    text = escape(path)
    for mark in "/._":
        text = text.replace(mark, mark + Markup("<wbr>"))
    return text


def _capitalize_first(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _preparation(preprocessing: dict[str, Any]) -> str:
    return Preprocessing.from_dict(preprocessing).describe()
