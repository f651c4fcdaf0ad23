"""`pocketvit benchmark`: latency, memory and size of exported files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pocketvit.cli import options as o

NAME = "benchmark"
EXAMPLES = """
**Examples**

`pocketvit benchmark runs/photos`

`pocketvit benchmark runs/a runs/b/model.onnx --threads 1 --threads 4`

`pocketvit benchmark model.onnx --json > benchmark.json`
"""


def run(
    models: Annotated[
        list[Path], typer.Argument(help="Exported files (.onnx) or run directories.", show_default=False)
    ],
    threads: Annotated[
        list[int] | None,
        typer.Option("--threads", "-t", min=1, help="Thread counts. [default: 1 and all cores]"),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure exported files beside a MobileNetV3 of the same input size, in the same run.

    Batch 1, ONNX Runtime, models in turn so that a drifting machine is fair to all. Compare within one run.
    """
    from pocketvit.pipeline.benchmark import benchmark_files
    from pocketvit.reporting.tables import benchmark_table

    result = benchmark_files(models, threads=tuple(threads) if threads else None)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        o.print_table(benchmark_table(result))
