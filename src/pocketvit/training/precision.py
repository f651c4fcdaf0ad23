"""Mixed precision: the number format the network computes in, and loss scaling where that is needed."""

from __future__ import annotations

from typing import Literal

import torch
from torch.amp import GradScaler

from pocketvit.core.errors import ConfigError
from pocketvit.training.recipe import Precision

__all__ = ["MixedPrecision", "resolve_precision"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class MixedPrecision:
    """Weights in float32, matrix products and convolutions in `name`.

    Args:
        name: the number format; float16 also scales the loss so that small gradients survive.
        device: where the network is.

    Raises:
        ConfigError: float16 was asked for on a device other than CUDA.
    """

    def __init__(self, *, name: Literal["float32", "bfloat16", "float16"], device: torch.device) -> None:
        if name == "float16" and device.type != "cuda":
            raise ConfigError(
                f"Training in float16 needs CUDA, not {device.type}.",
                fix="Use precision float32 or bfloat16.",
            )
        self.name = name
        self.device = device
        self.scaler = GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """The context for the forward pass."""
        return torch.autocast(self.device.type, _DTYPES[self.name], enabled=self.name != "float32")


def resolve_precision(asked: Precision, device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """What `auto` means here: bfloat16 on CUDA devices that compute in it, float32 elsewhere.

    Processors with bfloat16 instructions stay at float32. Measured on one (AVX-512 BF16, two cores), a
    training step at 64 pixels took 1.2 times as long in bfloat16 for MobileViT-XXS and MobileViTv2-0.5, and
    0.6 times for SwiftFormer-XS: where it pays is for the user to try.
    """
    if asked != "auto":
        return asked
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
