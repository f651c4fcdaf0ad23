"""Recipes: every setting of a training run, typed, with the YAML files that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pocketvit.core.config import Config, load_yaml, parse_config
from pocketvit.core.names import unknown_name
from pocketvit.data import ImageData
from pocketvit.data.transforms import Augmentation

__all__ = ["Precision", "Recipe", "choose_recipe", "list_recipes", "load_recipe"]

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Recipe(Config):
    """How a network is trained.

    Attributes:
        name: the recipe's name; set when it is loaded.
        epochs: passes over the training images.
        batch_size: images per optimizer step.
        lr: highest learning rate of AdamW, reached after the warm-up.
        weight_decay: decoupled decay of weight matrices; biases, norms and other 1-D parameters have none.
        warmup_epochs: epochs of linear warm-up.
        min_lr: the last learning rate as a fraction of `lr`; the cosine runs from one to the other.
        label_smoothing: share of the target spread over all classes.
        mixup: α of mixup's Beta(α, α); 0 switches it off.
        cutmix: α of CutMix's Beta(α, α); 0 switches it off. With both on, each batch draws one of them.
        ema_decay: decay of the moving average of the weights, approached from below in short runs; 0 switches
            it off.
        clip_grad: largest L2 norm of the gradient; None does not clip.
        precision: `auto` is bfloat16 on CUDA and float32 elsewhere.
        channels_last: keep images as (B, H, W, C) in memory, which convolutions prefer.
        augmentation: what happens to a training image before the network sees it.
        workers: processes that prepare images; `auto` chooses by the machine.
        seed: of the order of the images, augmentation, mixing and dropout.
    """

    name: str = ""
    epochs: int = Field(default=60, ge=1)
    batch_size: int = Field(default=16, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=3.0, ge=0)
    min_lr: float = Field(default=0.01, ge=0, le=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    clip_grad: float | None = Field(default=1.0, gt=0)
    precision: Precision = "auto"
    channels_last: bool = True
    augmentation: Augmentation = Field(default_factory=Augmentation)
    workers: int | Literal["auto"] = "auto"
    seed: int = Field(default=0, ge=0)


def list_recipes() -> list[str]:
    """Names of the recipes that ship with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def choose_recipe(data: ImageData) -> tuple[str, str]:
    """The recipe for `data` when none is named: its name, and why."""
    if data.name.lower() in list_recipes():
        return data.name.lower(), f"the recipe made for {data.name}"
    return "default", "no recipe was named and none is made for this data"


def load_recipe(name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from its name or a YAML file.

    Args:
        name_or_path: one of `list_recipes()`, or a path that ends in .yaml or .yml.
        overrides: settings that replace the recipe's; `augmentation.flip` reaches inside a group.

    Raises:
        UnknownNameError: no such recipe.
        ConfigError: the file cannot be read, or a setting is unknown or out of range.
    """
    path = _find(str(name_or_path))
    values = load_yaml(path)
    for key, value in (overrides or {}).items():
        group, dot, inner = key.partition(".")
        if dot:
            values[group] = {**_mapping(values.get(group)), inner: value}
        else:
            values[key] = {**_mapping(values.get(key)), **value} if isinstance(value, dict) else value
    return parse_config(Recipe, {**values, "name": path.stem}, where=f"recipe {name_or_path}")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _find(name: str) -> Path:
    if Path(name).suffix in {".yaml", ".yml"}:
        return Path(name)
    if name not in list_recipes():
        raise unknown_name("recipe", name, list_recipes(), see=f"Known recipes: {', '.join(list_recipes())}.")
    return _folder() / f"{name}.yaml"


def _folder() -> Path:
    return Path(str(resources.files("pocketvit"))) / "recipes"
