"""`pocketvit models`: what can be built."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pocketvit.cli import options as o

NAME = "models"
EXAMPLES = """
**Examples**

`pocketvit models`

`pocketvit models 'mobilevitv2*' --resolution 128 --classes 10`

`pocketvit models 'swift*' --json`
"""


def run(
    pattern: Annotated[str, typer.Argument(help="Name, with * and ? as wildcards.")] = "*",
    resolution: Annotated[
        int | None,
        typer.Option("--resolution", "-r", help="Count at this input size. [default: each model's own]"),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes of the head.")] = 1000,
    as_json: o.AsJson = False,
) -> None:
    """List the registered models with their cost, counted on the real network, and their licences."""
    from pocketvit.pipeline.models import describe_models
    from pocketvit.reporting.tables import models_table

    rows = describe_models(pattern, resolution=resolution, num_classes=classes)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        o.print_table(models_table(rows))
