"""How an image becomes a network's input; a model and its preprocessing always travel together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = ["Preprocessing"]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What happens to a decoded 8-bit image at evaluation.

    Attributes:
        size: height and width of the network's input, pixels.
        mean: subtracted from each channel of the image scaled to [0, 1].
        std: each channel is divided by it afterwards.
        interpolation: of the resize; with antialiasing.
        crop: part of the resized short side that the centre crop keeps, in (0, 1].
        channels: order of the colour channels the network was trained with.
        crop_mode: "center" resizes the short side and keeps the proportions; "squash" resizes both sides to
            that size, so that nothing but the crop is lost. The names are timm's.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    crop: float
    channels: Literal["rgb", "bgr"] = "rgb"
    crop_mode: Literal["center", "squash"] = "center"

    @property
    def short_side(self) -> int:
        """The short side after the resize and before the crop, pixels; rounded down, as timm does."""
        return int(self.size / self.crop)

    def at(self, size: int) -> Preprocessing:
        """The same rules for inputs of another `size`."""
        return replace(self, size=size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back.

        A `crop_mode` is there unless it is "center", so that what was written before there was another holds.
        """
        values = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        return {key: value for key, value in values.items() if (key, value) != ("crop_mode", "center")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """What `to_dict` wrote."""
        arrays: dict[str, Any] = {"mean": tuple(values["mean"]), "std": tuple(values["std"])}
        return cls(**{**values, **arrays})

    def describe(self) -> str:
        """The pipeline in one printable line."""
        return " | ".join(
            (
                f"decode {self.channels}",
                self.describe_resize(self.short_side),
                f"centre crop {self.size}",
                self.describe_values(),
            )
        )

    def describe_resize(self, side: int) -> str:
        """The resize of the short side, or of both, to `side` pixels."""
        resize = f"squash to {side}×{side}" if self.crop_mode == "squash" else f"resize short side {side}"
        return f"{resize} {self.interpolation}"

    def describe_values(self) -> str:
        """What happens to the values of the pixels."""
        return f"scale to [0, 1] | normalise mean {_numbers(self.mean)} std {_numbers(self.std)}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
