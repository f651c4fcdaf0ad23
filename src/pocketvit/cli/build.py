"""`pocketvit build`: the main job."""

from __future__ import annotations

from pocketvit.cli.job import job_command
from pocketvit.pipeline.config import BuildConfig

NAME = "build"
EXAMPLES = """
**Examples**

`pocketvit build digits --macs 30M`

`pocketvit build photos/ --macs 100M --out runs/photos`

`pocketvit build photos/ --model swiftformer_xs --resolution 128 --epochs 40`

`pocketvit build photos/ --model mobilevitv2_100 --model-kwargs official_resize=true`

`pocketvit build shards/ --limit 10000 --set lr=0.002`

`pocketvit build photos/ --bits 8`

`pocketvit build --resume runs/photos`
"""


def _build(config: BuildConfig, overwrite: bool) -> None:
    from pocketvit.pipeline.build import build

    build(config, overwrite=overwrite)


run = job_command(
    _build,
    summary="""From labelled images to a verified model file and a report, in one go.

    Reads the data, chooses the largest model that fits the budget, trains it, evaluates it, exports it to
    ONNX, checks the file against the network, measures it beside a MobileNet, and writes report.html. Run the
    same command again to go on after an interruption: finished stages are reused.
    """,
)
