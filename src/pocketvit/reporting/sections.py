"""What each part of the report shows, worked out from the JSON so that the template only lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from pocketvit.reporting.charts import LineChart, line_chart
from pocketvit.reporting.format import percent, setting
from pocketvit.reporting.source import RunFiles
from pocketvit.reporting.speed import row_name, threads

__all__ = [
    "MATRIX_LIMIT",
    "Bar",
    "Cell",
    "class_list",
    "column_names",
    "confused_pairs",
    "confusion_cells",
    "costs",
    "curves",
    "latency_bars",
    "main_row",
    "per_class_rows",
    "settings_of",
    "short_columns",
    "shown_candidates",
    "shown_mistakes",
    "verified_words",
]

MATRIX_LIMIT = 20
"""Most classes for which the confusion matrix is readable; beyond it the most confused pairs are listed."""

_CANDIDATES = 10
_LONG_NAME = 14
_SHORT_NAME = 3
_FURTHEST = 2  # times the longest p50 that the scale of the bars may reach


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A timing: `length` and `reach` are p50 and p90 in percent of the scale; `cut`: p90 lies beyond it."""

    name: str
    role: str
    p50_ms: float
    p90_ms: float
    length: float
    reach: float
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of the confusion matrix; `share` is the part of the true class's images, 0 to 1."""

    n: int
    share: float
    right: bool


def main_row(benchmark: dict[str, Any]) -> dict[str, Any] | None:
    """Our own model on the fewest threads: the timing of the headline."""
    ours = [row for row in benchmark["rows"] if row["role"] == "ours"]
    return min(ours, key=lambda row: row["threads"], default=None)


def curves(files: RunFiles) -> list[LineChart]:
    """Loss, accuracy and learning rate over the epochs."""

    def points(key: str) -> list[tuple[int, float]]:
        return [(row["epoch"], row[key]) for row in files.metrics if row.get(key) is not None]

    best = files.training["best_epoch"] if files.training else None
    loss = [("training", "line-b", points("train_loss")), ("validation", "line-a", points("val_loss"))]
    accuracy = [("validation", "line-a", points("val_top1"))]
    rate = [("learning rate", "line-c", points("lr"))]
    drawn = (
        line_chart("Loss", y_label="cross-entropy (nats)", series=loss, best=best, text=lambda v: f"{v:.4g}"),
        line_chart(
            "Accuracy",
            y_label="top-1 (%)",
            series=accuracy,
            best=best,
            text=lambda v: f"{100 * v:.4g}%",
            most=1,
        ),
        line_chart(
            "Learning rate", y_label="step size (no unit)", series=rate, best=None, text=lambda v: f"{v:.3g}"
        ),
    )
    return [chart for chart in drawn if chart is not None]


def confusion_cells(evaluation: dict[str, Any]) -> list[list[Cell]]:
    """The confusion matrix, rows true and columns predicted."""
    return [
        [Cell(n=n, share=n / sum(row) if sum(row) else 0.0, right=i == j) for j, n in enumerate(row)]
        for i, row in enumerate(evaluation["confusion"])
    ]


def column_names(evaluation: dict[str, Any]) -> list[str]:
    """Heads of the confusion matrix: the classes, or their numbers when a name is too long to stand there."""
    names = [row["name"] for row in evaluation["per_class"]]
    return [str(i + 1) for i in range(len(names))] if max(map(len, names), default=0) > _LONG_NAME else names


def short_columns(names: Sequence[str]) -> bool:
    """Whether every head of the confusion matrix is short enough to be written level."""
    return max(map(len, names), default=0) <= _SHORT_NAME


def confused_pairs(evaluation: dict[str, Any], *, most: int) -> list[dict[str, Any]]:
    """The most frequent mistakes: `{"true", "predicted", "n", "of"}`, most frequent first."""
    names = [row["name"] for row in evaluation["per_class"]]
    pairs = [
        {"true": names[i], "predicted": names[j], "n": n, "of": sum(row)}
        for i, row in enumerate(evaluation["confusion"])
        for j, n in enumerate(row)
        if i != j and n
    ]
    return sorted(pairs, key=lambda pair: (-pair["n"], pair["of"]))[:most]


def per_class_rows(files: RunFiles) -> list[dict[str, Any]]:
    """Classes, weakest recall first, with `n_train`, their training images, where that is known.

    Recall is `None` for a class without images, precision for one that was never the answer.
    """
    if files.evaluation is None:
        return []
    trained = (
        dict(zip(files.data["classes"], files.data["counts"]["train"], strict=True)) if files.data else {}
    )
    answered = [sum(column) for column in zip(*files.evaluation["confusion"], strict=True)]
    rows = [
        {
            **row,
            "recall": row["recall"] if row["n"] else None,
            "precision": row["precision"] if times else None,
            "n_train": trained.get(row["name"]),
        }
        for row, times in zip(files.evaluation["per_class"], answered, strict=True)
    ]
    # A class without validation images has no recall: it goes last, as there is nothing to see.
    return sorted(rows, key=lambda row: (row["recall"] is None, row["recall"] or 0))


def shown_mistakes(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Mistakes, most confident first. A picture that is not an embedded image is not shown."""
    return [
        {**mistake, "image": image if image.startswith("data:image/") else None}
        for mistake in sorted(evaluation["mistakes"], key=lambda mistake: -mistake["confidence"])
        for image in [mistake.get("image") or ""]
    ]


def latency_bars(benchmark: dict[str, Any]) -> list[tuple[str, list[Bar]]]:
    """Bars by number of threads, ours first, all on one scale."""
    rows = sorted(benchmark["rows"], key=lambda row: (row["threads"], row["role"] != "ours"))
    # One disturbed measurement must not squeeze every bar to nothing.
    scale = min(
        max((row["p90_ms"] for row in rows), default=0),
        _FURTHEST * max((row["p50_ms"] for row in rows), default=0),
    )
    groups: dict[int, list[Bar]] = {}
    for row in rows:
        bar = Bar(
            name=row_name(row, rows),
            role=row["role"],
            p50_ms=row["p50_ms"],
            p90_ms=row["p90_ms"],
            length=round(100 * row["p50_ms"] / scale, 2),
            reach=round(100 * min(row["p90_ms"] / scale, 1), 2),
            cut=row["p90_ms"] > scale,
        )
        groups.setdefault(row["threads"], []).append(bar)
    return [(threads(number), bars) for number, bars in groups.items()]


def costs(benchmark: dict[str, Any]) -> list[dict[str, Any]]:
    """Size and memory of each model, once: memory is the largest over its thread counts."""
    merged: dict[str, dict[str, Any]] = {}
    rows = sorted(benchmark["rows"], key=lambda row: row["role"] != "ours")
    for row in rows:
        name = row_name(row, rows)
        peak = (
            max(merged[name]["peak_memory_mb"], row["peak_memory_mb"])
            if name in merged
            else row["peak_memory_mb"]
        )
        merged[name] = {**row, "name": name, "peak_memory_mb": peak}
    return list(merged.values())


def shown_candidates(model: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The models that were considered: the chosen one and those most worth seeing, then the rest."""
    ranked = sorted(
        model["candidates"], key=lambda c: (not c["chosen"], not c["fits"], -c["resolution"], -c["macs"])
    )
    # Of the ones that do not fit, the nearest misses are of interest, not the largest.
    misses = sorted((c for c in ranked if not c["fits"]), key=lambda c: c["macs"])
    ranked = [c for c in ranked if c["fits"]] + misses
    return ranked[:_CANDIDATES], ranked[_CANDIDATES:]


def settings_of(values: dict[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value) pairs."""
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            flat += settings_of(value, prefix=f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", setting(value)))
    return flat


def class_list(names: Sequence[str], *, most: int = 150) -> str:
    """`a, b and c`; when that is longer than `most` characters, the first ones and how many more."""
    shown = 1 + sum(length <= most for length in accumulate(len(name) + 2 for name in names[1:]))
    if shown < len(names):
        return f"{', '.join(names[:shown])} and {len(names) - shown:,} more"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def verified_words(export: dict[str, Any]) -> str:
    """What the check of the exported file found, for someone who has never exported one."""
    check = export["verification"]
    n, agreed = check["n"], percent(check["top1_agreement"])
    if not check["passed"]:
        return f"On {n:,} images it gave the trained network's answer {agreed} of the time: not good enough."
    return f"On {n:,} images the file gave the same answer as the trained network {agreed} of the time."
