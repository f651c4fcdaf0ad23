"""What `pocketvit import` prints."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketvit.reporting.format import count, integer

__all__ = ["import_table"]


def import_table(report: dict[str, Any]) -> RenderableType:
    """What matched, what was changed and under which licence; `report` as `ImportReport.to_dict` gives it."""
    return Group(_matched(report), "", _facts(report))


def _matched(report: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("part")
    for name in ("tensors matched", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report["parts"]:
        table.add_row(escape(row["part"]), integer(row["tensors"]), count(row["parameters"]))
    parameters = sum(row["parameters"] for row in report["parts"])
    table.add_row("all", integer(report["matched"]), count(parameters), style="bold")
    return table


def _facts(report: dict[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("model", Text(f"{report['model']}, {report['num_classes']:,} classes", style="bold"))
    if report["also_fits"]:
        others = ", ".join(report["also_fits"])
        grid.add_row("", Text(f"The same tensors fit {others}; --model chooses."))
    grid.add_row("names as in", Text(report["code_base"]))
    if report["wrapper"]:
        left = f"; {', '.join(report['left_out'])} was left out" if report["left_out"] else ""
        grid.add_row("weights under", Text(report["wrapper"] + left))
    for index, change in enumerate(report["changes"]):
        grid.add_row("" if index else "changed", Text(change))
    grid.add_row("licence", Text(report["licence"], style="yellow"))
    grid.add_row("file", Text(report["file"]))
    return grid
