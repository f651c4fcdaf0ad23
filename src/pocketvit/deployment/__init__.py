"""From a trained network to a verified file: what can be written, writing it, running it, checking it.

The names below are imported when first used: running a file (`.session`) must not load a training framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pocketvit.deployment.delivery import deploy
    from pocketvit.deployment.onnx import OnnxFile, export_onnx
    from pocketvit.deployment.rewrites import Rewrite, rewrite_for_inference
    from pocketvit.deployment.runtime import ExportedClassifier
    from pocketvit.deployment.targets import TARGETS, Target, check_target
    from pocketvit.deployment.verification import Verification, verify

__all__ = [
    "TARGETS",
    "ExportedClassifier",
    "OnnxFile",
    "Rewrite",
    "Target",
    "Verification",
    "check_target",
    "deploy",
    "export_onnx",
    "rewrite_for_inference",
    "verify",
]

_HOMES = {
    "delivery": ("deploy",),
    "onnx": ("OnnxFile", "export_onnx"),
    "rewrites": ("Rewrite", "rewrite_for_inference"),
    "runtime": ("ExportedClassifier",),
    "targets": ("TARGETS", "Target", "check_target"),
    "verification": ("Verification", "verify"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
