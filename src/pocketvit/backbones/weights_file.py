"""Tensors out of weights files that may come from anywhere, so nothing in a file is ever run.

Only two formats that cannot run code are read: safetensors, and PyTorch files through
`torch.load(weights_only=True)`. Training scripts often save their options beside the weights, so
`argparse.Namespace` is let through as well, and nothing else.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from pocketvit.core.errors import CheckpointError

__all__ = ["WRAPPERS", "Tensors", "WeightsFile", "read_weights_file"]

Tensors = dict[str, Tensor]

WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model_state_dict"),
    *("model", "state_dict", "model_state_dict"),
)
"""Names under which training scripts save weights, averaged ones first."""

ARCHITECTURE = "arch"  # where timm's and torchvision's scripts save the model's name
PARALLEL = "module."  # what torch's parallel training puts in front of each name


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """What a file holds.

    Attributes:
        sets: named tensors by the wrapper they were saved under; under `""` when there is no wrapper.
        architecture: the model's name, where the file says it.
    """

    path: Path
    sets: dict[str, Tensors]
    architecture: str | None

    def choose(self, order: tuple[str, ...] = WRAPPERS) -> tuple[str, Tensors]:
        """The wrapper that comes first in `order`, and its tensors."""
        wrapper = next((name for name in order if name in self.sets), next(iter(self.sets)))
        return wrapper, self.sets[wrapper]


def read_weights_file(path: Path) -> WeightsFile:
    """Read a safetensors or PyTorch file; wrappers and `module.` prefixes are taken off.

    Raises:
        CheckpointError: there is no such file, it is damaged, would run code, or holds no named tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no weights file {path}.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _read_pytorch(path)
    except Exception as error:  # a hostile file can make the reader fail in any way
        raise CheckpointError(
            f"{path} cannot be read as weights: {_problem(error)}.",
            fix="Download it again, or save it as safetensors. Files that would run code are never loaded.",
        ) from error
    named: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    sets = {wrapper: _tensors(named.get(wrapper)) for wrapper in WRAPPERS} | {"": _tensors(named)}
    wrapped = {wrapper: tensors for wrapper, tensors in sets.items() if wrapper and tensors}
    if not wrapped and not sets[""]:
        raise CheckpointError(f"{path} holds no tensors by name, so it is not a file of weights.")
    architecture = named.get(ARCHITECTURE)
    return WeightsFile(
        path=path,
        sets=wrapped or {"": sets[""]},
        architecture=architecture if isinstance(architecture, str) else None,
    )


def _read_pytorch(path: Path) -> Any:
    with warnings.catch_warnings(), safe_globals([argparse.Namespace]):
        # An unusual pickle protocol is either read or refused; no need to warn too.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def _problem(error: Exception) -> str:
    """What is wrong; of a refused class or function, its name, which torch says in its message."""
    if refused := re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", str(error)):
        return f"it holds more than tensors and options ({refused[1]})"
    kind = type(error).__name__
    return f"it is truncated, of another kind, or holds more than tensors ({kind})"


def _tensors(content: Any) -> Tensors:
    named: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    tensors = {str(key): value for key, value in named.items() if _is_plain(value)}
    if tensors and all(key.startswith(PARALLEL) for key in tensors):
        return {key.removeprefix(PARALLEL): value for key, value in tensors.items()}
    return tensors


def _is_plain(value: Any) -> bool:
    """Whether this is a tensor with ordinary numbers in it: not sparse, quantized or without data."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not value.is_meta
        and not value.is_quantized
    )
