"""Geometry of the line charts: what the template draws as inline SVG.

SVG rather than a plotting library's JavaScript: three charts cost ten kilobytes instead of five megabytes,
print sharp, follow the reader's light or dark theme and show in mail previews, where scripts are blocked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["HEIGHT", "WIDTH", "Line", "LineChart", "Tick", "epoch_ticks", "line_chart", "value_ticks"]

WIDTH, HEIGHT = 360, 232
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 26, 40
_MOST_DOTS = 40


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis: `at` is its pixel position along that axis."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series.

    Attributes:
        name: for the legend.
        style: CSS class that gives colour and dash.
        path: SVG path data.
        dots: (x, y, hover text) of every point; empty when there are too many to draw.
    """

    name: str
    style: str
    path: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A drawn chart of `WIDTH` × `HEIGHT` pixels; `best` is the marked epoch's x and text, or `None`."""

    title: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    best: Tick | None
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


def line_chart(
    title: str,
    *,
    y_label: str,
    series: Sequence[tuple[str, str, Sequence[tuple[int, float]]]],
    best: int | None,
    text: Callable[[float], str],
    most: float = math.inf,
    step: str = "epoch",
) -> LineChart | None:
    """Lay out a chart over epochs or other steps; `None` when no series has a point.

    Args:
        series: (name, CSS class, [(epoch, value)]) each; values are not negative.
        best: the epoch to mark.
        text: writes a value for axis and hover.
        most: the largest value there can be; the smallest is 0.
        step: what the whole numbers of the horizontal axis count.
    """
    drawn = [(name, style, [p for p in points if math.isfinite(p[1])]) for name, style, points in series]
    every = [point for _, _, points in drawn for point in points]
    if not every:
        return None
    x_marks = epoch_ticks(min(e for e, _ in every), max(e for e, _ in every))
    rounded = value_ticks(min(v for _, v in every), max(v for _, v in every))
    y_marks = [mark for mark in rounded if 0 <= mark <= most]
    # Epochs fill the width exactly; values end on a tick at both ends.
    x = _scale(min(e for e, _ in every), max(e for e, _ in every), _LEFT + 6, WIDTH - _RIGHT - 6)
    y = _scale(y_marks[0], y_marks[-1], HEIGHT - _BOTTOM, _TOP)
    lines = [
        Line(
            name=name,
            style=style,
            path="M" + "L".join(f"{x(e):.1f} {y(v):.1f}" for e, v in points),
            dots=[(round(x(e), 1), round(y(v), 1), f"{step} {e}: {name} {text(v)}") for e, v in points]
            if len(points) <= _MOST_DOTS
            else [],
        )
        for name, style, points in drawn
        if points
    ]
    known = best is not None and any(epoch == best for epoch, _ in every)
    return LineChart(
        title=title,
        y_label=y_label,
        lines=lines,
        x_ticks=[Tick(at=round(x(mark), 1), text=f"{mark:g}") for mark in x_marks],
        y_ticks=[Tick(at=round(y(mark), 1), text=text(mark)) for mark in y_marks],
        best=Tick(at=round(x(best), 1), text=f"best epoch: {best}") if best is not None and known else None,
    )


_FLAT = 1e-11
"""A range below this is a single value: ticks are rounded to 12 decimals."""


def value_ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round values a constant 1, 2, 2.5 or 5 × 10ᵏ apart, the first ≤ `low` and the last ≥ `high`."""
    if high - low < _FLAT:
        margin = abs(low) * 0.1 if abs(low) > 100 * _FLAT else 1.0
        low, high = low - margin, high + margin
    step = _round_step((high - low) / about, (1, 2, 2.5, 5, 10))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def epoch_ticks(first: int, last: int, *, most: int = 7) -> list[int]:
    """Whole epochs a constant 1, 2 or 5 × 10ᵏ apart, within `first` to `last`."""
    step = max(1, round(_round_step((last - first) / most, (1, 2, 5, 10)))) if last > first else 1
    inner = [epoch for epoch in range(first, last + 1) if epoch % step == 0]
    return inner or [first]


def _round_step(rough: float, choices: Sequence[float]) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(choice for choice in choices if choice * magnitude >= rough * (1 - 1e-9)) * magnitude


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)
