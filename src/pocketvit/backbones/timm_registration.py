"""Families that timm lacks, under their names in timm's registry, for its tools and `timm.create_model`.

What timm knows about a model is taken from its entry in our registry. The signatures are timm's: it calls an
entry point with the options of its builder, of which these networks have `num_classes`, `in_chans`,
`global_pool`, `drop_path_rate` and `output_stride`; any other is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from pocketvit.backbones.base import Backbone
from pocketvit.backbones.cas_vit import SPECS as CAS_VIT
from pocketvit.backbones.mobile_former import SPECS as MOBILE_FORMER
from pocketvit.backbones.options import BuildOptions
from pocketvit.backbones.registry import ModelEntry, get_entry

__all__: list[str] = []

default_cfgs: dict[str, Any] = {}
"""Where timm looks for what it should know about the models of this file."""


def _register(name: str, *, first_conv: str, classifier: str, tags: dict[str, str]) -> None:
    """Make a model known to timm; `tags` maps each of timm's tags to the entry of those weights."""
    cfgs: dict[str, Any] = {
        f"{name}.{tag}": _cfg(get_entry(of)) | {"first_conv": first_conv, "classifier": classifier}
        for tag, of in tags.items()
    }
    default_cfgs.update(generate_default_cfgs(cfgs))
    register_model(_entry_point(name))


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        features = {"feature_cls": "getter", "out_indices": (0, 1, 2, 3)}
        return build_model_with_cfg(partial(_build, name), name, pretrained, feature_cfg=features, **options)

    create.__name__ = create.__qualname__ = name
    return create


def _build(
    name: str,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_path_rate: float = 0.0,
    output_stride: int = 32,
) -> Backbone:
    options = BuildOptions(output_stride=output_stride)
    model = get_entry(name).build_with(options)(num_classes, in_chans)
    assert isinstance(model, Backbone)
    model.global_pool = global_pool
    model.set_drop_path(drop_path_rate)
    return model


def _cfg(entry: ModelEntry) -> dict[str, Any]:
    pre = entry.preprocessing
    paper, _, code = entry.source.partition(", ")
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, pre.size, pre.size),
        "pool_size": (pre.size // 32, pre.size // 32),
        "crop_pct": pre.crop,
        "crop_mode": pre.crop_mode,
        "interpolation": pre.interpolation,
        "mean": pre.mean,
        "std": pre.std,
        "license": entry.weights_licence,
        "paper_ids": paper.replace("arXiv ", "arXiv:"),
        "origin_url": f"https://{code}",
    }


for _name in CAS_VIT:
    _tags = {"in1k": _name, "in1k_384": f"{_name}_384"}
    _register(_name, first_conv="patch_embed.0", classifier="head", tags=_tags)
for _name in MOBILE_FORMER:
    _register(_name, first_conv="stem.0", classifier="classifier.classifier.1", tags={"in1k": _name})
