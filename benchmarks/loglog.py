"""Line charts with logarithmic axes as one SVG file, for what grows as a power of something."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Panel", "Series", "loglog_svg"]

WIDTH, PLOT_HEIGHT, LEGEND_LINE = 480, 320, 20
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 60, 52
MARGIN = 0.04
"""Free space between the outermost points and the frame, as a share of the axis."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line: its points (x, y), all positive, and its words in the legend with an exponent to raise."""

    name: str
    exponent: str
    colour: str
    dashed: bool
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart; `x_ticks` are the values written at the horizontal axis."""

    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    series: Sequence[Series]


def loglog_svg(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """The panels side by side under a title, each with its legend below."""
    lines = max(len(panel.series) for panel in panels)
    width, height = WIDTH * len(panels), TOP + PLOT_HEIGHT + BOTTOM + LEGEND_LINE * lines + 12
    drawn = "\n".join(
        f'<g transform="translate({WIDTH * index} 0)">{_panel(panel)}</g>'
        for index, panel in enumerate(panels)
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}" font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12" \
fill="#333">
<title>{escape(title)}</title>
<rect width="{width}" height="{height}" fill="#fff"/>
<text x="{LEFT}" y="24" font-size="16" font-weight="600">{escape(title)}</text>
<text x="{LEFT}" y="44" fill="#666">{escape(subtitle)}</text>
{drawn}
</svg>
"""


def _panel(panel: Panel) -> str:
    points = [point for series in panel.series for point in series.points]
    x = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y = _axis([y for _, y in points], TOP + PLOT_HEIGHT, TOP)
    low, high = min(y for _, y in points), max(y for _, y in points)
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts = [
        *(_x_tick(x(value), f"{value:,.0f}") for value in panel.x_ticks),
        *(_y_tick(y(10.0**power), _number(10.0**power)) for power in decades),
        f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - RIGHT - LEFT}" height="{PLOT_HEIGHT}" fill="none" '
        'stroke="#999"/>',
        f'<text x="{middle}" y="{TOP + PLOT_HEIGHT + 38}" text-anchor="middle">'
        f"{escape(panel.x_label)}</text>",
        f'<text transform="translate(16 {TOP + PLOT_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.y_label)}</text>",
        *(_line(series, x, y) for series in panel.series),
        *(
            _legend(series, TOP + PLOT_HEIGHT + BOTTOM + LEGEND_LINE * (index + 0.5))
            for index, series in enumerate(panel.series)
        ),
    ]
    return "\n".join(parts)


def _axis(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log(min(values)), math.log(max(values))
    room = MARGIN * (high - low) or 1.0
    low, high = low - room, high + room
    return lambda value: round(start + (math.log(value) - low) / (high - low) * (end - start), 1)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _x_tick(at: float, text: str) -> str:
    foot = TOP + PLOT_HEIGHT
    return (
        f'<path d="M{at} {TOP}V{foot}" stroke="#eee"/>'
        f'<text x="{at}" y="{foot + 18}" text-anchor="middle">{text}</text>'
    )


def _y_tick(at: float, text: str) -> str:
    return (
        f'<path d="M{LEFT} {at}H{WIDTH - RIGHT}" stroke="#eee"/>'
        f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{text}</text>'
    )


def _line(series: Series, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    at = [(x(a), y(b)) for a, b in series.points]
    path = "M" + "L".join(f"{a} {b}" for a, b in at)
    dots = "".join(f'<circle cx="{a}" cy="{b}" r="2.5" fill="{series.colour}"/>' for a, b in at)
    return f'<path d="{path}" fill="none" {_stroke(series)}/>{dots}'


def _legend(series: Series, y: float) -> str:
    return (
        f'<path d="M{LEFT} {y}h28" {_stroke(series)}/><text x="{LEFT + 36}" y="{y + 4}">{escape(series.name)}'
        f'<tspan dy="-5" font-size="9">{escape(series.exponent)}</tspan></text>'
    )


def _stroke(series: Series) -> str:
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    return f'stroke="{series.colour}" stroke-width="2"{dash}'
