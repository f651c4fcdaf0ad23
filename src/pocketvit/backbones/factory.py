"""From a name to a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn

from pocketvit.backbones.options import DEFAULTS, BuildOptions
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.backbones.registry import ModelEntry, get_entry
from pocketvit.core.errors import CheckpointError, ConfigError
from pocketvit.mixers.registry import MixerFactory

__all__ = ["create_model"]

STRIDES = (4, 8, 16, 32)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int = 32,
    official_resize: bool = False,
    mixer: str | MixerFactory | None = None,
) -> nn.Module:
    """Build a model by name: a registered one, any `mobilevitv2` width, or any timm model.

    Args:
        name: see `list_models`; with `timm/` in front, timm's own implementation.
        num_classes: outputs of the classifier; 0 gives pooled features.
        in_chans: channels of the input image.
        pretrained: load the published weights.
        features_only: return a list of feature maps at strides 4, 8, 16 and 32 instead of logits: the map of
            stride s is ceil(H / s) × ceil(W / s).
        out_indices: which of these maps, counted from 0; all if `None`.
        output_stride: 16 or 8 stop downsampling there; dilation keeps the reach of each weight.
        official_resize: compute what the official code computes also where that makes a map larger than
            ceil(H / s). Of the models here only MobileViTv2 differs, and only where a map is odd: 224 px ends
            in 8×8 positions instead of 7×7. Exact sizes are the default because they are what detection and
            segmentation heads rely on; at the published sizes, 256 and 384 px, both are the same. timm's own
            implementations always compute what timm computes.
        mixer: another token mixer at every place where the network has its own: a name of `list_mixers`, or
            what makes one from its number of channels (a module of `(B, C, H, W)` to the same shape). The
            docstring of each family's network says where that is.

    Raises:
        ConfigError: the model has no such output stride, or no mixer that another could replace; `pretrained`
            with another mixer; or `out_indices` without `features_only`.
        UnknownNameError: there is no such model or mixer.
        CheckpointError: `pretrained`, but there are no published weights or they cannot be fetched.
    """
    if out_indices is not None and not features_only:
        raise ConfigError("out_indices chooses feature maps, but features_only is not set.")
    entry = get_entry(name)
    options = entry.settle(
        BuildOptions(output_stride=output_stride, official_resize=official_resize, mixer=mixer)
    )
    if pretrained and options.mixer is not None:
        raise ConfigError(
            f"The published weights of {name} are for its own mixer, {entry.mixer}.",
            fix="Leave out `pretrained`, or the mixer.",
        )
    levels = _levels(out_indices)
    if features_only and entry.timm_name:
        return _timm_features(entry, options, levels=levels, in_chans=in_chans, pretrained=pretrained)
    model = entry.build_with(options)(num_classes, in_chans)
    if pretrained:
        _load_published(model, entry)
    return FeatureGetterNet(model, out_indices=levels) if features_only else model


def _levels(out_indices: Sequence[int] | None) -> tuple[int, ...]:
    every = range(len(STRIDES))
    levels = tuple(every if out_indices is None else out_indices)
    if not levels or not set(levels) <= set(every):
        raise ConfigError(
            f"There are no feature maps {levels}.", fix="Choose from 0, 1, 2 and 3: strides 4, 8, 16 and 32."
        )
    return levels


def _load_published(model: nn.Module, entry: ModelEntry) -> None:
    report = load_pretrained(model, entry, "auto")
    if not report.used:
        raise CheckpointError(report.message, fix="Give a weights file, or start without pretrained weights.")


def _timm_features(
    entry: ModelEntry, options: BuildOptions, *, levels: Sequence[int], in_chans: int, pretrained: bool
) -> nn.Module:
    name = cast(str, entry.timm_name)
    if pretrained:  # timm says little when it cannot fetch them
        _load_published(entry.build(1000, in_chans), entry)
    with torch.device("meta"):
        probe: Any = timm.create_model(name, features_only=True)
    strides: list[int] = probe.feature_info.reduction()
    stride = options.output_stride
    dilated: dict[str, Any] = {} if stride == DEFAULTS.output_stride else {"output_stride": stride}
    return timm.create_model(
        name,
        features_only=True,
        out_indices=[strides.index(STRIDES[level]) for level in levels if STRIDES[level] in strides],
        in_chans=in_chans,
        pretrained=pretrained,
        **dilated,
    )
