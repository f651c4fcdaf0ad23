"""Latency, memory and size of exported files; one protocol for every runtime.

The names below are imported when first used: the memory probe's process must hold a runtime and no training
framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvit.benchmarking.baseline import mobilenet_baseline
    from pocketvit.benchmarking.comparison import Contestant, benchmark

__all__ = ["Contestant", "benchmark", "mobilenet_baseline"]

_HOMES = {"baseline": ("mobilenet_baseline",), "comparison": ("Contestant", "benchmark")}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
