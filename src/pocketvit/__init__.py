"""pocketvit: from labelled images to a verified vision transformer that runs in your pocket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pocketvit._version import __version__

if TYPE_CHECKING:
    from pocketvit.backbones import create_model, get_entry, list_models

__all__ = ["__version__", "create_model", "get_entry", "list_models"]


def __getattr__(name: str) -> Any:
    """Load the backbones (and with them torch) only when one of their names is asked for."""
    if name in __all__:
        from pocketvit import backbones

        return getattr(backbones, name)
    raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
