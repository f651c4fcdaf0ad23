"""`pocketvit evaluate`: accuracy of a run or an exported file on labelled images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pocketvit.cli import options as o

NAME = "evaluate"
EXAMPLES = """
**Examples**

`pocketvit evaluate runs/photos`

`pocketvit evaluate runs/photos/model.onnx --data photos/`

`pocketvit evaluate runs/photos --data new-photos/ --split all --json`
"""


def run(
    model: Annotated[
        Path, typer.Argument(help="Run directory or exported file (.onnx).", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Labelled images. [default: what the run was trained on]"),
    ] = None,
    split: Annotated[
        Literal["val", "train", "all"], typer.Option("--split", help="Which part of the data.")
    ] = "val",
    val_fraction: o.ValFraction = 0.2,
    seed: o.Seed = 0,
    limit: o.Limit = None,
    max_damaged: o.MaxDamaged = 0.05,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")] = 64,
    as_json: o.AsJson = False,
) -> None:
    """Measure accuracy, with its 95% confidence interval, on labelled images.

    A run is evaluated with its trained network on its own held-out images unless --data names others; the
    split is then made with --val-fraction and --seed, as `pocketvit build` makes it.
    """
    from pocketvit.pipeline.evaluate import evaluate_on
    from pocketvit.reporting.tables import evaluation_table

    result = evaluate_on(
        model,
        data,
        split=split,
        val_fraction=val_fraction,
        seed=seed,
        limit=limit,
        max_damaged=max_damaged,
        batch_size=batch_size,
    )
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        o.print_table(evaluation_table(result))
