"""The arguments of the main job, which `build` and `train` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from pocketvit.cli import options as o
from pocketvit.core.errors import ConfigError
from pocketvit.pipeline.config import BuildConfig

__all__ = ["job_command"]

Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance", help="Largest difference of the exported file's logits, relative to the largest logit."
    ),
]

Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        help="**build** also writes a file that computes in integers of this width: 8, or 6. More choices: "
        "**pocketvit quantize**.",
        show_default=False,
    ),
]


def job_command(work: Callable[[BuildConfig, bool], None], *, summary: str) -> Callable[..., None]:
    """A command with the arguments of the main job.

    Args:
        work: called with the typed settings and whether to start again.
        summary: what `--help` says.
    """

    def run(
        data: o.Data = None,
        out: o.Out = None,
        resume: o.Resume = None,
        overwrite: o.Overwrite = False,
        macs: o.Macs = None,
        params: o.Params = None,
        model: o.Model = None,
        model_kwargs: o.ModelKwargs = None,
        resolution: o.Resolution = None,
        pretrained: o.Pretrained = "auto",
        recipe: o.Recipe = None,
        epochs: o.Epochs = None,
        batch_size: o.BatchSize = None,
        settings: o.Set = None,
        limit: o.Limit = None,
        val_fraction: o.ValFraction = 0.2,
        max_damaged: o.MaxDamaged = 0.05,
        seed: o.Seed = 0,
        device: o.Device = "auto",
        workers: o.Workers = None,
        tolerance: Tolerance = None,
        bits: Bits = None,
    ) -> None:
        if (data is None) == (resume is None):
            raise ConfigError(
                "Give either data or --resume RUN." if data else "Which data?",
                fix="For example `pocketvit build photos/`, `pocketvit build digits` or "
                "`pocketvit build --resume runs/photos`.",
            )
        if resume is not None:
            work(o.config_of_run(resume, bits=bits), overwrite)
            return
        config = o.build_config(
            str(data),
            macs=macs,
            params=params,
            model_kwargs=model_kwargs,
            settings=settings,
            epochs=epochs,
            batch_size=batch_size,
            workers=workers,
            out=out,
            model=model,
            resolution=resolution,
            pretrained=pretrained,
            recipe=recipe,
            limit=limit,
            val_fraction=val_fraction,
            max_damaged=max_damaged,
            seed=seed,
            device=device,
            tolerance=tolerance,
            bits=bits,
        )
        work(config, overwrite)

    run.__doc__ = summary
    return run
