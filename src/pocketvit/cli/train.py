"""`pocketvit train`: the main job as far as the trained, evaluated network."""

from __future__ import annotations

from pocketvit.cli.job import job_command
from pocketvit.pipeline.config import BuildConfig

NAME = "train"
EXAMPLES = """
**Examples**

`pocketvit train digits --model mobilevitv2_050 --resolution 64`

`pocketvit train photos/ --pretrained weights.safetensors --epochs 20`

`pocketvit train torchvision:CIFAR10 --recipe cifar10`

`pocketvit train --resume runs/photos`
"""


def _train(config: BuildConfig, overwrite: bool) -> None:
    from pocketvit.pipeline.build import train_only

    train_only(config, overwrite=overwrite)


run = job_command(
    _train,
    summary="""Train and evaluate a network, without exporting it.

    The same stages as `pocketvit build` up to the evaluation; `pocketvit export RUN`, or
    `pocketvit build --resume RUN`, goes on from there.
    """,
)
