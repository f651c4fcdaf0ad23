"""Did-you-mean: the nearest known names for one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pocketvit.core.errors import UnknownNameError

__all__ = ["nearest", "unknown_name"]


def nearest(name: str, choices: Iterable[str], *, n: int = 3) -> list[str]:
    """The `n` choices most like `name`, best first; empty when none is close."""
    return difflib.get_close_matches(name.lower(), list(choices), n=n, cutoff=0.55)


def unknown_name(kind: str, name: str, choices: Iterable[str], *, see: str = "") -> UnknownNameError:
    """The error for an unknown `name`, ready to raise.

    Args:
        kind: what the name should have been, such as `"model"`.
        name: what was given.
        choices: every name that would have done.
        see: where to look when nothing is close, such as `"pocketvit models lists them."`.
    """
    close = nearest(name, choices)
    fix = f"Did you mean {' or '.join(close)}?" if close else see
    return UnknownNameError(f"There is no {kind} named '{name}'.", fix=fix)
