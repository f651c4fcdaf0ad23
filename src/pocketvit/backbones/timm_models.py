"""Families of the field whose networks are timm's: EfficientFormer, here of any size, and the baselines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pocketvit.backbones import efficientformer
from pocketvit.backbones.registry import ModelEntry, get_entry, register

__all__: list[str] = []


def _entries(*names: str, family: str, source: str) -> list[ModelEntry]:
    return [
        replace(get_entry(name), family=family, source=source, weights_licence="Apache-2.0") for name in names
    ]


def _any_size(*names: str, family: str, source: str) -> list[ModelEntry]:
    return [
        replace(
            entry,
            any_size=True,
            timm_name=None,
            build=efficientformer.build(entry.name),
            configure=partial(efficientformer.build, entry.name),
        )
        for entry in _entries(*names, family=family, source=source)
    ]


register(
    *_any_size(
        *("efficientformer_l1", "efficientformer_l3", "efficientformer_l7"),
        family="efficientformer",
        source="arXiv 2206.01191, github.com/snap-research/EfficientFormer",
    ),
    *_any_size(
        *("efficientformerv2_s0", "efficientformerv2_s1", "efficientformerv2_s2", "efficientformerv2_l"),
        family="efficientformerv2",
        source="arXiv 2212.08059, github.com/snap-research/EfficientFormer",
    ),
    *_entries("mobilenetv3_large_100", family="baseline", source="arXiv 1905.02244"),
    *_entries(
        *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"),
        family="baseline",
        source="arXiv 2012.12877, github.com/facebookresearch/deit",
    ),
)
