"""`pocketvit import`: an official checkpoint into a file that can be trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from pocketvit.cli import options as o

NAME = "import"
EXAMPLES = """
**Examples**

`pocketvit import mobilevit_s.pt`

`pocketvit import mobilevitv2-1.5.pt --model mobilevitv2_150_in22k_ft_in1k_384 --out weights/in22k`

`pocketvit import training_checkpoint_last.pt --channels rgb`

`pocketvit build photos/ --model swiftformer_s --pretrained weights/swiftformer_s.safetensors`
"""


def run(
    file: Annotated[Path, typer.Argument(help="Official checkpoint, or a file of timm.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the two files.")] = Path("weights"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model it is of, where the file fits several: the same network for another input size.",
            show_default=False,
        ),
    ] = None,
    channels: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(
            "--channels",
            help="Colour order of the images that the weights want. [default: that of the published weights]",
            show_default=False,
        ),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Convert official weights (all families in `pocketvit models`), or timm's, to safetensors and JSON.

    The family and its variant are found from the names and shapes in the file. Nothing in the file is run.
    """
    from pocketvit.backbones.importers import import_checkpoint
    from pocketvit.reporting.imports import import_table

    report = import_checkpoint(file, out=out, model=model, channels=channels).to_dict()
    if as_json:
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
    else:
        o.print_table(import_table(report))
