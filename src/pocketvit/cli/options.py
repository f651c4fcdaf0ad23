"""Options that several verbs share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from pocketvit.core.config import parse_config, parse_count
from pocketvit.core.errors import ConfigError
from pocketvit.pipeline.config import BuildConfig

__all__ = [
    "AsJson",
    "BatchSize",
    "Data",
    "Device",
    "Epochs",
    "Limit",
    "Macs",
    "MaxDamaged",
    "Model",
    "ModelKwargs",
    "Out",
    "Overwrite",
    "Params",
    "Pretrained",
    "Recipe",
    "Resolution",
    "Resume",
    "Seed",
    "Set",
    "ValFraction",
    "Workers",
    "build_config",
    "config_of_run",
    "print_table",
]

Data = Annotated[
    str | None,
    typer.Argument(
        help="Folder with one sub-folder per class (or train/ and val/), parquet file or folder, "
        "**digits**, or **torchvision:CIFAR10**.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Run directory. [default: runs/NAME-OF-THE-DATA]", show_default=False),
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", help="Go on with this run directory, with the settings it was started with."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start again when the run directory is in use.")]
Macs = Annotated[
    str | None,
    typer.Option(
        "--macs",
        metavar="COUNT",
        help="Most multiply-accumulates per image, like 100M. [default: 150M unless --params or --model]",
        show_default=False,
    ),
]
Params = Annotated[
    str | None,
    typer.Option("--params", metavar="COUNT", help="Most parameters, like 2M.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="This model (see **pocketvit models**), or any timm name."),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-kwargs",
        metavar="KEY=VALUE",
        help="Option of that model, as **create_model** takes it: output_stride=16, official_resize=true. "
        "Repeatable.",
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option("--resolution", "-r", help="Input height and width in pixels, a multiple of 32."),
]
Pretrained = Annotated[
    str,
    typer.Option(
        "--pretrained",
        metavar="auto|none|FILE",
        help="Start from the hub's weights where they can be reached, from scratch, or from a weights file.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="Training recipe: a name or a YAML file. [default: chosen by the data]"),
]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", "-b", help="Images per training step.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any other recipe setting, such as lr=0.001. Repeatable."
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", help="Use only this many images (seeded, stratified).")]
ValFraction = Annotated[
    float, typer.Option("--val-fraction", help="Share held out when the data has no val/ of its own.")
]
MaxDamaged = Annotated[
    float, typer.Option("--max-damaged", help="Largest share of unreadable images that is tolerated.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of split, initial weights, order and augmentation.")]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where to train.")]
Workers = Annotated[int | None, typer.Option("--workers", help="Data loading processes. [default: chosen]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output instead of a table.")]


def print_table(*parts: Any) -> None:
    """Print tables (or any rich renderable) on standard output."""
    console = Console(highlight=False)
    for part in parts:
        console.print(part)


def build_config(
    data: str,
    *,
    macs: str | None,
    params: str | None,
    model_kwargs: list[str] | None,
    settings: list[str] | None,
    epochs: int | None,
    batch_size: int | None,
    workers: int | None,
    **rest: Any,
) -> BuildConfig:
    """The typed settings behind the arguments of `build` and `train`.

    Raises:
        ConfigError: a value of the wrong kind.
    """
    recipe_settings = _pairs(settings, example="--set lr=0.001")
    named = {"epochs": epochs, "batch_size": batch_size, "workers": workers}
    recipe_settings.update({key: value for key, value in named.items() if value is not None})
    values = {
        "data": data,
        "macs": parse_count(macs) if macs else None,
        "params": parse_count(params) if params else None,
        "options": _pairs(model_kwargs, example="--model-kwargs output_stride=16"),
        "settings": recipe_settings,
        **rest,
    }
    return parse_config(BuildConfig, values, where="command line")


def config_of_run(path: Path, *, bits: int | None = None) -> BuildConfig:
    """The settings a run was started with.

    Args:
        bits: width of an integer file that is now wanted too.

    Raises:
        RunError: there is no run at `path`.
    """
    from pocketvit.core.rundir import RunDirectory

    saved = RunDirectory.open(path).read("run.json")["config"]
    wanted = {} if bits is None else {"bits": bits}
    return parse_config(BuildConfig, {**saved, "out": path, **wanted}, where=str(path / "run.json"))


def _pairs(texts: list[str] | None, *, example: str) -> dict[str, Any]:
    """What a repeatable option collected, values read as YAML does."""
    pairs: dict[str, Any] = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        option = example.partition(" ")[0]
        if not equals or not key:
            raise ConfigError(f"{option} {text}: not of the form KEY=VALUE.", fix=f"For example {example}.")
        try:
            pairs[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{option} {text}: the value is not YAML.", fix="Put it in quotes.") from None
    return pairs
