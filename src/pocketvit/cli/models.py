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

`pocketvit models --rewrites mobilevitv2_100`
"""


def run(
    pattern: Annotated[str, typer.Argument(help="Name, with * and ? as wildcards.")] = "*",
    resolution: Annotated[
        int | None,
        typer.Option(
            "--resolution", "-r", min=32, help="Count at this input size. [default: each model's own]"
        ),
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes of the head.")] = 1000,
    rewrites: Annotated[
        str | None,
        typer.Option(
            "--rewrites",
            metavar="NAME",
            help="Show what exporting this model merges exactly, before and after.",
            show_default=False,
        ),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """List the registered models with their cost, counted on the real network, and their licences."""
    from pocketvit.pipeline.models import describe_models, describe_rewrites
    from pocketvit.reporting.tables import models_table, rewrites_table

    if rewrites is not None:
        found = describe_rewrites(rewrites, resolution=resolution, num_classes=classes)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            o.print_table(rewrites_table(found))
        return
    rows = describe_models(pattern, resolution=resolution, num_classes=classes)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        o.print_table(models_table(rows))
