"""Backbones: one file a family, each reading like its paper's table, and the registry that names them."""

from pocketvit.backbones import (
    cas_vit,
    mobile_former,
    mobilevit,
    mobilevitv2,
    swiftformer,
    timm_models,
    timm_registration,
)
from pocketvit.backbones.factory import create_model
from pocketvit.backbones.options import BuildOptions
from pocketvit.backbones.preprocessing import Preprocessing
from pocketvit.backbones.registry import ModelEntry, get_entry, list_models

__all__ = [
    "BuildOptions",
    "ModelEntry",
    "Preprocessing",
    "cas_vit",
    "create_model",
    "get_entry",
    "list_models",
    "mobile_former",
    "mobilevit",
    "mobilevitv2",
    "swiftformer",
    "timm_models",
    "timm_registration",
]
