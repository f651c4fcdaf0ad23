"""`pocketvit predict`: classify images with an exported file or a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pocketvit.cli import options as o

NAME = "predict"
EXAMPLES = """
**Examples**

`pocketvit predict runs/photos/model.onnx holiday.jpg`

`pocketvit predict runs/photos new-photos/ --top 3`

`pocketvit predict model.onnx *.png --json > answers.json`
"""


def run(
    model: Annotated[
        Path, typer.Argument(help="Exported file (.onnx) or run directory.", show_default=False)
    ],
    images: Annotated[
        list[str], typer.Argument(help="Image files, or folders searched through.", show_default=False)
    ],
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Classes shown per image.")] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")] = 16,
    as_json: o.AsJson = False,
) -> None:
    """Classify images.

    A run directory answers with its exported file where there is one, else with the trained network. Images
    that cannot be read are listed as such; the exit code is 4 only when none could be.
    """
    from pocketvit.pipeline.predict import predict_files
    from pocketvit.reporting.tables import predictions_table

    answers = predict_files(model, images, top=top, batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(answers, indent=1, ensure_ascii=False))
    else:
        o.print_table(predictions_table(answers))
    if all("problem" in answer for answer in answers):
        raise typer.Exit(4)
