"""Every model by name: what builds it, what its input looks like, where it comes from, its licences."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from pocketvit.backbones.options import DEFAULTS, BuildOptions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.core.errors import ConfigError
from pocketvit.core.names import unknown_name

__all__ = ["ModelEntry", "get_entry", "list_models", "register", "register_pattern"]

TIMM_PREFIX = "timm/"


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model that can be built by name.

    Attributes:
        build: makes the network with fresh weights from (number of classes, input channels).
        hub: name and tag of the published weights that timm can fetch and that fit, if there are any.
        source: paper and official repository.
        any_size: whether it takes images of other sizes than `preprocessing` says.
        timm_name: its name in timm, where the network is timm's own implementation.
        configure: what `build` is under given options; `None` if the model can only be built as it is.
        mixer: name of its own token mixer, if another can take its place.
    """

    name: str
    family: str
    preprocessing: Preprocessing
    code_licence: str
    weights_licence: str
    source: str
    hub: str | None
    any_size: bool = True
    build: Callable[[int, int], nn.Module]
    timm_name: str | None = None
    configure: Callable[[BuildOptions], Callable[[int, int], nn.Module]] | None = None
    mixer: str | None = None

    def settle(self, options: BuildOptions) -> BuildOptions:
        """The same options, with no mixer where that is the model's own.

        Raises:
            ConfigError: a mixer, and the model has none that it could replace.
        """
        if options.mixer is None:
            return options
        if self.mixer is None:
            families = sorted({entry.family for entry in _entries.values() if entry.mixer})
            raise ConfigError(
                f"'{self.name}' has no token mixer that another could replace.",
                fix=f"Choose a model of one of the families {', '.join(families)}.",
            )
        return replace(options, mixer=None) if options.mixer == self.mixer else options

    def build_with(self, options: BuildOptions) -> Callable[[int, int], nn.Module]:
        """What makes the network under these options from (number of classes, input channels).

        Raises:
            ConfigError: the model has no such options.
        """
        options = self.settle(options)
        if options == DEFAULTS:
            return self.build
        if self.configure is None:
            raise ConfigError(
                f"'{self.name}' has no choice of output stride or of the treatment of odd maps."
            )
        return self.configure(options)


_entries: dict[str, ModelEntry] = {}
_patterns: list[tuple[re.Pattern[str], Callable[[re.Match[str]], ModelEntry]]] = []


def register(*entries: ModelEntry) -> None:
    """Make entries known by their names."""
    _entries.update({entry.name: entry for entry in entries})


def register_pattern(pattern: str, make: Callable[[re.Match[str]], ModelEntry]) -> None:
    """Make every name that fully matches the regular expression known; `make` gets the match."""
    _patterns.append((re.compile(pattern), make))


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a wildcard such as `"mobilevitv2_*"`, numbers in numeric order."""
    return sorted((name for name in _entries if fnmatchcase(name, pattern)), key=_natural)


def get_entry(name: str) -> ModelEntry:
    """The entry of a registered name, of any `mobilevitv2` width, or of any timm model.

    `timm/` in front of a name asks for timm's own implementation where both have one.

    Raises:
        UnknownNameError: there is no such model; says the nearest names.
    """
    if name in _entries:
        return _entries[name]
    for pattern, make in _patterns:
        if match := pattern.fullmatch(name):
            return make(match)
    timm_name = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(timm_name):
        known = dict.fromkeys([*_entries, *timm.list_models()])
        raise unknown_name("model", name, known, see="`pocketvit models` lists them; any timm name works.")
    return _timm_entry(name, timm_name)


def _timm_entry(name: str, timm_name: str) -> ModelEntry:
    architecture, _, tag = timm_name.partition(".")
    if tag and timm_name not in timm.list_pretrained(f"{architecture}.*"):
        raise unknown_name("timm model", timm_name, timm.list_pretrained())
    cfg = timm.get_pretrained_cfg(architecture if not tag else timm_name)
    if cfg is None:
        raise ConfigError(f"timm says nothing about the input of '{timm_name}', so it cannot be used.")

    def configure(options: BuildOptions) -> Callable[[int, int], nn.Module]:
        return partial(_build_timm, timm_name, options)

    return ModelEntry(
        name=name,
        family="timm",
        preprocessing=_timm_preprocessing(cfg, timm_name),
        code_licence="Apache-2.0 (timm)",
        weights_licence=cfg.license or "not stated by timm",
        source=", ".join(str(part) for part in (cfg.paper_ids, cfg.origin_url) if part) or "timm",
        hub=f"{architecture}.{cfg.tag}" if cfg.has_weights and cfg.tag else None,
        any_size=not cfg.fixed_input_size,
        build=configure(DEFAULTS),
        timm_name=timm_name,
        configure=configure,
    )


_TIMM_REFUSALS = (TypeError, NotImplementedError, AssertionError)  # of an output stride, family by family


def _build_timm(name: str, options: BuildOptions, num_classes: int, in_chans: int) -> nn.Module:
    """A model of timm's own; what it computes on odd maps is timm's choice, whatever the options say."""
    if options.output_stride == DEFAULTS.output_stride:
        return timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    try:
        return timm.create_model(
            name, num_classes=num_classes, in_chans=in_chans, output_stride=options.output_stride
        )
    except _TIMM_REFUSALS as error:
        raise ConfigError(
            f"timm cannot build '{name}' with an output stride of {options.output_stride}."
        ) from error


def _timm_preprocessing(cfg: Any, name: str) -> Preprocessing:
    _, height, width = cfg.input_size
    if height != width:
        raise ConfigError(
            f"timm model '{name}' wants {height}×{width} inputs; only square inputs are supported."
        )
    if cfg.crop_mode not in ("center", "squash"):
        raise ConfigError(
            f"timm model '{name}' wants images padded ('{cfg.crop_mode}'), which is not supported."
        )
    return Preprocessing(
        size=height,
        mean=_three(cfg.mean or IMAGENET_DEFAULT_MEAN),
        std=_three(cfg.std or IMAGENET_DEFAULT_STD),
        interpolation="bilinear" if cfg.interpolation == "bilinear" else "bicubic",
        crop=float(cfg.crop_pct or 0.875),
        crop_mode=cfg.crop_mode,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
