"""From a name to a network."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn

from pocketvit.backbones.base import Backbone
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.backbones.registry import TIMM_PREFIX, get_entry
from pocketvit.core.errors import CheckpointError

__all__ = ["create_model"]

STRIDES = (4, 8, 16, 32)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    features_only: bool = False,
) -> nn.Module:
    """Build a model by name: a registered one, any `mobilevitv2` width, or any timm model.

    Args:
        name: see `list_models`; with `timm/` in front, timm's own implementation.
        num_classes: outputs of the classifier; 0 gives pooled features.
        in_chans: channels of the input image.
        pretrained: load the published weights.
        features_only: return a list of feature maps at strides 4, 8, 16 and 32 instead of logits.

    Raises:
        UnknownNameError: there is no such model.
        CheckpointError: `pretrained`, but there are no published weights or they cannot be fetched.
    """
    entry = get_entry(name)
    model = entry.build(num_classes, in_chans)
    if pretrained:
        report = load_pretrained(model, entry, "auto")
        if not report.used:
            raise CheckpointError(
                report.message, fix="Give a weights file, or start without pretrained weights."
            )
    if not features_only:
        return model
    if isinstance(model, Backbone):
        return FeatureGetterNet(model, out_indices=tuple(range(len(STRIDES))))
    return _timm_features(name.removeprefix(TIMM_PREFIX), in_chans=in_chans, pretrained=pretrained)


def _timm_features(timm_name: str, *, in_chans: int, pretrained: bool) -> nn.Module:
    with torch.device("meta"):
        probe: Any = timm.create_model(timm_name, features_only=True)
    strides: list[int] = probe.feature_info.reduction()
    wanted = [strides.index(stride) for stride in STRIDES if stride in strides]
    return timm.create_model(
        timm_name, features_only=True, out_indices=wanted, in_chans=in_chans, pretrained=pretrained
    )
