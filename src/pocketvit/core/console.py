"""What the person at the terminal sees: one console, one style of progress bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "progress_bar"]

console = Console(stderr=True, highlight=False, soft_wrap=True)
"""Talk to the person on standard error, so that standard output holds only results (tables, JSON).

Lines are left to the terminal to wrap, so that a path can be copied whole; tables need `soft_wrap=False`.
"""


def progress_bar(*, note: str = "") -> Progress:
    """A progress bar with count, elapsed and remaining time; `note` names a task field shown at its end.

    Without a terminal (a log file, a pipe) nothing is drawn, so logs stay readable.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    if note:
        columns.append(TextColumn("{task.fields[" + note + "]}"))
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
