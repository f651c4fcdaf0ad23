"""What can be chosen about a network besides its name: output stride, treatment of odd maps, token mixer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pocketvit.core.errors import ConfigError
from pocketvit.core.names import unknown_name
from pocketvit.mixers.registry import MixerFactory, get_mixer

__all__ = ["DEFAULTS", "OUTPUT_STRIDES", "BuildOptions", "Reduction", "reductions"]

OUTPUT_STRIDES = (8, 16, 32)

_EXPECTED: dict[type, str] = {int: "Give a whole number.", bool: "Give true or false.", str: "Give a name."}


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a network is built.

    Attributes:
        output_stride: stride of the last level: 32, or 16 or 8 for dense prediction, where dilation takes the
            place of the last downsamplings (see `reductions`).
        official_resize: compute what the official code computes also where that makes a level larger than
            ceil(H / stride). Only MobileViTv2 differs, and only where a map is odd; see `MobileViTV2Block`.
        mixer: the token mixer in place of the network's own: a name of `list_mixers`, or what makes one from
            its number of channels.

    Raises:
        ConfigError: a network cannot have this output stride.
        UnknownNameError: there is no such mixer.
    """

    output_stride: int = 32
    official_resize: bool = False
    mixer: str | MixerFactory | None = None

    def __post_init__(self) -> None:
        if self.output_stride not in OUTPUT_STRIDES:
            raise ConfigError(
                f"The output stride cannot be {self.output_stride}.",
                fix="Choose 8, 16 or 32.",
            )
        if isinstance(self.mixer, str):
            get_mixer(self.mixer)

    @property
    def mixer_factory(self) -> MixerFactory | None:
        """What makes the mixers; `None` is the network's own."""
        return get_mixer(self.mixer) if isinstance(self.mixer, str) else self.mixer

    def to_dict(self) -> dict[str, Any]:
        """The options that are not at their defaults, for JSON and as arguments of `create_model`.

        Raises:
            ConfigError: the mixer has no name.
        """
        if callable(self.mixer):
            raise ConfigError(
                f"The mixer {self.mixer} has no name under which a file could mention it.",
                fix="Name it with `pocketvit.mixers.register_mixer` and give the name.",
            )
        return {
            option.name: value
            for option in fields(self)
            if (value := getattr(self, option.name)) != option.default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BuildOptions:
        """What `to_dict` wrote, or what a person did in its form.

        Raises:
            UnknownNameError: there is no such option.
            ConfigError: a value of the wrong kind, or one that no network has.
        """
        defaults: dict[str, Any] = {option.name: option.default for option in fields(cls)}
        for name, value in values.items():
            if name not in defaults:
                raise unknown_name("model option", name, defaults, see=f"There are: {', '.join(defaults)}.")
            kind: type = str if defaults[name] is None else type(defaults[name])
            if type(value) is not kind:  # an instance would not do: True is an int
                raise ConfigError(f"The model option {name} cannot be {value!r}.", fix=_EXPECTED[kind])
        return cls(**values)


DEFAULTS = BuildOptions()
"""The network as published, with exact feature sizes."""


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How a level begins: stride and dilation of its first k×k convolution, dilation of all others."""

    stride: int
    first: int
    dilation: int


def reductions(output_stride: int) -> tuple[Reduction, Reduction, Reduction]:
    """Strides and dilations of the levels at strides 8, 16 and 32.

    A level beyond `output_stride` keeps its size: its first convolution has stride 1 and the dilation of the
    level before, all later ones twice that. So each weight meets pixels as far apart as in the network of
    stride 32, of which convolutions then compute the same values, just at more places (DeepLab, Chen et al.
    2017, section 3.1).
    """
    steps: list[Reduction] = []
    dilation = 1
    for stride in OUTPUT_STRIDES:
        if stride <= output_stride:
            steps.append(Reduction(stride=2, first=1, dilation=1))
        else:
            steps.append(Reduction(stride=1, first=dilation, dilation=2 * dilation))
            dilation *= 2
    to_8, to_16, to_32 = steps
    return to_8, to_16, to_32
