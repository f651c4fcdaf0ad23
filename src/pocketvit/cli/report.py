"""`pocketvit report`: render a run's report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "report"
EXAMPLES = """
**Examples**

`pocketvit report runs/photos`
"""


def run(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)],
) -> None:
    """Write report.html from what the run directory holds, also when some stages have not run yet."""
    from pocketvit.core.rundir import RunDirectory
    from pocketvit.reporting import write_report

    typer.echo(write_report(RunDirectory.open(run_path)))
