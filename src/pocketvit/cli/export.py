"""`pocketvit export`: a verified model file from a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pocketvit.cli.job import Tolerance

NAME = "export"
EXAMPLES = """
**Examples**

`pocketvit export runs/photos`

`pocketvit export runs/photos --to phone/model.onnx`
"""


def run(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)],
    to: Annotated[
        Path | None, typer.Option("--to", help="Copy the verified file there as well.", show_default=False)
    ] = None,
    target: Annotated[str, typer.Option("--target", help="Format of the file.")] = "onnx",
    precision: Annotated[str, typer.Option("--precision", help="Number format of the file.")] = "float32",
    tolerance: Tolerance = None,
) -> None:
    """Export a run's trained network and check the file against it on the held-out images.

    The file is announced only after ONNX Runtime computed the same as the network; beyond the tolerance it is
    kept as model.unverified.onnx and the exit code is 6.
    """
    from pocketvit.pipeline.build import export_run

    export_run(run_path, target=target, precision=precision, tolerance=tolerance, copy_to=to)
