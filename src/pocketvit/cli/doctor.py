"""`pocketvit doctor`: what is wrong with a data set."""

from __future__ import annotations

import json

import typer

from pocketvit.cli import options as o
from pocketvit.core.errors import ConfigError, DataError

NAME = "doctor"
EXAMPLES = """
**Examples**

`pocketvit doctor photos/`

`pocketvit doctor shards/ --json`
"""


def run(data: o.Data = None, as_json: o.AsJson = False) -> None:
    """Inspect a data set: damaged files, duplicates, leaks between train and val, imbalance, odd sizes.

    The exit code is 4 when something would stop `pocketvit build`.
    """
    if data is None:
        raise ConfigError("Which data?", fix="For example `pocketvit doctor photos/`.")
    from pocketvit.data.doctor import inspect
    from pocketvit.reporting.tables import data_report_table

    report = inspect(data)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False))
    else:
        o.print_table(data_report_table(report.to_dict()))
    if report.unusable:
        raise typer.Exit(DataError.exit_code)
