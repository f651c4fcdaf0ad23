"""Numbers as people read them. A value that is absent or not finite reads as a dash, never as `nan`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

__all__ = [
    "count",
    "duration",
    "file_size",
    "four_digits",
    "integer",
    "interval",
    "milliseconds",
    "model_name",
    "percent",
    "points",
    "setting",
    "speed_ratio",
    "tiny",
]

_DASH = "–"


def _number(function: Callable[[float], str]) -> Callable[[Any], str]:
    @functools.wraps(function)
    def guarded(value: Any) -> str:
        known = isinstance(value, int | float) and math.isfinite(value)
        return function(value) if known else _DASH

    return guarded


@_number
def percent(value: float) -> str:
    """A fraction as a percentage: 0.9472 is `94.7%`. Only exactly 0 and 1 read as 0% and 100%."""
    if value in (0, 1):
        return f"{value:.0%}"
    if value < 0.0005:
        return "<0.1%"
    return ">99.9%" if value >= 0.9995 else f"{value:.1%}"


def interval(estimate: dict[str, Any]) -> str:
    """The ends of `{"low", "high"}` as `91.9% to 96.6%`."""
    return f"{percent(estimate['low'])} to {percent(estimate['high'])}"


@_number
def points(value: float) -> str:
    """A difference of fractions in percentage points: 0.031 is `3.1 points`."""
    return f"{100 * value:.1f} points"


@_number
def count(value: float) -> str:
    """1234 is `1,234`; from ten thousand on three digits and a unit: `1.11 M`, `12.3 k`, `2.03 G`."""
    if abs(value) < 10_000:
        return f"{round(value):,}"
    return _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k")))


@_number
def integer(value: float) -> str:
    """A count of things, exact: 50000 is `50,000`."""
    return f"{round(value):,}"


@_number
def file_size(value: float) -> str:
    """Bytes in decimal units: 4 450 000 is `4.45 MB`."""
    return f"{value:.0f} bytes" if value < 1000 else _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")))


@_number
def milliseconds(value: float) -> str:
    """Three significant digits: `0.482 ms`, `3.21 ms`, `32.1 ms`, `321 ms`."""
    return f"{_three_digits(value)} ms"


@_number
def duration(value: float) -> str:
    """Seconds as `0.4 s`, `42 s`, `3 min 5 s` or `1 h 12 min`."""
    if value < 9.95:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return _two_units(seconds // 60, "min", seconds % 60, "s")
    minutes = round(seconds / 60)
    return _two_units(minutes // 60, "h", minutes % 60, "min")


@_number
def four_digits(value: float) -> str:
    """A loss or a learning rate: 0.231145 is `0.2311`, 0.00002 is `2e-05`."""
    return f"{value:.4g}"


@_number
def tiny(value: float) -> str:
    """A rounding error: 2.4e-06 is `0.0000024`, and below a billionth `2.4e-12`."""
    if value == 0:
        return "0"
    if value < 1e-9:
        return f"{value:.1e}"
    text = f"{value:.{max(0, 1 - math.floor(math.log10(value)))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def speed_ratio(ours: float, baseline: float) -> str:
    """How two times compare: `1.8× slower than`, `1.3× faster than`, `about as fast as` (within 3%)."""
    ratio = max(ours, baseline) / min(ours, baseline)
    if ratio < 1.03:
        return "about as fast as"
    return f"{ratio:.{1 if ratio >= 1.1 else 2}f}× {'slower' if ours > baseline else 'faster'} than"


def model_name(name: str) -> str:
    """`mobilenetv3_large_100` as its paper writes it, MobileNetV3-Large; other names as they are."""
    match = re.fullmatch(r"mobilenetv(\d)_(large|small)(?:_(\d)(\d\d))?", name)
    if not match:
        return name
    width = "" if match[3] is None or match[3] + match[4] == "100" else f" {match[3]}.{match[4]}"
    return f"MobileNetV{match[1]}-{match[2].capitalize()}{width}"


def setting(value: Any) -> str:
    """A value from a settings file: `yes` and `no` for truth values, `none` for null, lists with commas."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(setting(part) for part in value)
    return str(value)


def _two_units(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit}" + (f" {small} {small_unit}" if small else "")


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, unit in units:
        # 999 950 must become 1.00 M, not 1000 k: compare after rounding to three digits.
        if abs(value) / size >= 0.9995:
            return f"{_three_digits(value / size)} {unit}"
    size, unit = units[-1]
    return f"{_three_digits(value / size)} {unit}"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{min(max(decimals, 0), 3)}f}"
