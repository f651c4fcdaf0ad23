"""pocketvit: from labelled images to a verified vision transformer that runs in your pocket."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pocketvit._version import __version__

if TYPE_CHECKING:
    from pocketvit.backbones import create_model, get_entry, list_models
    from pocketvit.backbones.importers import import_checkpoint
    from pocketvit.deployment import ExportedClassifier, rewrite_for_inference
    from pocketvit.training import load_model

__all__ = [
    "ExportedClassifier",
    "__version__",
    "create_model",
    "get_entry",
    "import_checkpoint",
    "list_models",
    "load_model",
    "rewrite_for_inference",
]

_HOME = {
    **dict.fromkeys(("create_model", "get_entry", "list_models"), "backbones"),
    "import_checkpoint": "backbones.importers",
    "load_model": "training",
    **dict.fromkeys(("ExportedClassifier", "rewrite_for_inference"), "deployment"),
}


def __getattr__(name: str) -> Any:
    """Load a part of the library (and with it torch) only when one of its names is asked for."""
    if name in _HOME:
        return getattr(import_module(f"pocketvit.{_HOME[name]}"), name)
    raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
