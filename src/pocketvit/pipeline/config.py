"""The settings of the main job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from pocketvit.core.config import Config
from pocketvit.core.machine import DeviceName

if TYPE_CHECKING:  # the command line imports this file, and --help should not wait for torch
    from pocketvit.scaling import Budget

__all__ = ["BuildConfig"]

DEFAULT_MACS = 150_000_000

_WORDS = {"digits", "auto", "none"}
"""What is not a path even where a file has that name."""


class BuildConfig(Config):
    """What `pocketvit build` and `pocketvit train` need to know; the recipe holds how the network is trained.

    Attributes:
        data: a folder, a parquet file or folder, `digits`, or `torchvision:NAME`.
        out: the run directory; by default `runs/` and the data's name.
        macs: most multiply-accumulates for one image; 150 M unless `macs`, `params` or `model` is given.
        params: most parameters.
        model: a registered or timm model name; by default the largest that fits.
        options: how that model is built, as `create_model` takes it; see `pocketvit.backbones.BuildOptions`.
        resolution: input size in pixels; by default the highest the data warrants and the budget allows.
        pretrained: `auto` (the hub's weights where they can be reached), `none`, or a weights file.
        recipe: a recipe's name or YAML file; by default chosen by the data.
        settings: recipe settings that replace the recipe's own.
        limit: use only that many images.
        val_fraction: share held out when the data has no validation part of its own.
        max_damaged: largest share of unreadable images that is tolerated.
        target: format of the exported file, and `precision` its number format; see
            `pocketvit.deployment.targets`.
        tolerance: largest difference between the logits of the exported file and the network, relative to the
            largest logit.
        bits: also write an integer file of this width (8 or 6 are sensible); see `pocketvit.quantization`.
        threads: thread counts of the benchmark; by default one and all cores.
    """

    data: str
    out: Path | None = None
    macs: int | None = Field(default=None, gt=0)
    params: int | None = Field(default=None, gt=0)
    model: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    resolution: int | None = Field(default=None, ge=32, multiple_of=32)
    pretrained: str = "auto"
    recipe: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    limit: int | None = Field(default=None, gt=0)
    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    max_damaged: float = Field(default=0.05, ge=0, le=1)
    seed: int = 0
    device: DeviceName = "auto"
    target: str = "onnx"
    precision: str = "float32"
    tolerance: float | None = Field(default=None, gt=0)
    bits: int | None = None
    threads: tuple[int, ...] | None = None

    @field_validator("data", "pretrained")
    @classmethod
    def _whole_path(cls, text: str) -> str:
        """Paths are kept whole, so that a run can be resumed from any folder."""
        path = Path(text).expanduser()
        return str(path.resolve()) if text not in _WORDS and path.exists() else text

    @field_validator("bits")
    @classmethod
    def _supported(cls, bits: int | None) -> int | None:
        """An unknown width is refused before the training, not after it."""
        if bits is not None:
            from pocketvit.quantization.quantizers import check_bits

            check_bits(bits)
        return bits

    @property
    def budget(self) -> Budget:
        """The limits on the network."""
        from pocketvit.scaling import Budget

        unlimited = self.macs is None and self.params is None and self.model is None
        return Budget(macs=DEFAULT_MACS if unlimited else self.macs, params=self.params)

    @property
    def run_path(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / slug(self.data)


def slug(data: str) -> str:
    """A folder name for a data source: its last path component, letters, digits, dots and dashes only."""
    name = Path(data.rstrip("/")).resolve().name if "/" in data or data in {".", ".."} else data
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.").lower() or "run"
