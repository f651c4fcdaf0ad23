"""Which widths mixed precision chose, for terminal and report; from `mixed` in quantization.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pocketvit.reporting.format import count, file_size, percent

__all__ = ["WidthRow", "WidthsSection", "label_words", "widths_section", "widths_table"]

_BAR = 24


@dataclass(frozen=True, kw_only=True)
class WidthRow:
    """All weights of one width.

    Attributes:
        share: of all weights that are quantized.
        length: of its bar, in percent of the longest.
        operators: their names, in the order they run.
    """

    bits: int
    weights: int
    share: float
    length: float
    operators: list[str]


@dataclass(frozen=True, kw_only=True)
class WidthsSection:
    """The part of the report on the widths: a row for each, and two sentences."""

    budget: str
    rows: list[WidthRow]
    sizes: str


def widths_section(content: dict[str, Any] | None) -> WidthsSection | None:
    """What the report shows; `content` is as in quantization.json. `None` without mixed precision."""
    if content is None or "mixed" not in content:
        return None
    mixed = content["mixed"]
    return WidthsSection(budget=_budget(mixed), rows=_rows(mixed), sizes=_sizes(mixed))


def widths_table(content: dict[str, Any]) -> RenderableType:
    """How many operators and weights have which width; `content` is as in quantization.json, with `mixed`."""
    mixed = content["mixed"]
    table = Table(box=None, pad_edge=False)
    for name in ("bits", "operators", "weights", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for row in _rows(mixed):
        bar = "█" * max(1, round(_BAR * row.length / 100))
        table.add_row(str(row.bits), str(len(row.operators)), count(row.weights), percent(row.share), bar)
    return Group(Text(f"Widths of the weights: {_budget(mixed)}"), table, Text(_sizes(mixed)))


def label_words(content: dict[str, Any]) -> str:
    """`W8A8`, or `W5.98A8 (mixed)`."""
    if "mixed" not in content:
        return str(content["label"])
    return f"W{content['mixed']['average_bits']:.2f}A{content['spec']['activations']} (mixed)"


def _rows(mixed: dict[str, Any]) -> list[WidthRow]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in sorted(mixed["operators"], key=lambda row: row["bits"]):
        found.setdefault(row["bits"], []).append(row)
    weights = {bits: sum(row["weights"] for row in rows) for bits, rows in found.items()}
    total, most = sum(weights.values()), max(weights.values())
    return [
        WidthRow(
            bits=bits,
            weights=weights[bits],
            share=weights[bits] / total,
            length=round(100 * weights[bits] / most, 2),
            operators=[row["operator"] for row in rows],
        )
        for bits, rows in found.items()
    ]


def _budget(mixed: dict[str, Any]) -> str:
    asked, size = mixed["budget"]["average_bits"], mixed["budget"]["size"]
    limit = f"{asked:g} bits" if size is None else f"{size.strip()} for all parameters"
    return f"{mixed['average_bits']:.2f} bits on average (asked: at most {limit})"


def _sizes(mixed: dict[str, Any]) -> str:
    packed, eight, whole = (file_size(mixed[key]) for key in ("packed_bytes", "int8_bytes", "float_bytes"))
    return (
        f"Packed at these widths, all parameters take {packed} ({eight} at 8 bits, {whole} in float32). "
        "Integer kernels hold each weight in one byte, so the file itself is no smaller than at 8 bits."
    )
