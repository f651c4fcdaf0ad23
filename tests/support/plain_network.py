"""A network of the kind that timm has, traced in two seconds: a convolution and two residual blocks."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

NAME = "timm/plain_byobnet"

default_cfgs = generate_default_cfgs(
    {
        "plain_byobnet.none": {
            "input_size": (3, 160, 160),
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "num_classes": 1000,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
        }
    }
)


@register_model
def plain_byobnet(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """Basic blocks of 32 channels at a quarter of the size."""
    blocks = tuple(ByoBlockCfg(type="basic", d=1, c=32, s=stride, gs=0, br=1.0) for stride in (2, 1))
    shape = ByoModelCfg(blocks=blocks, stem_chs=16, stem_type="3x3", act_layer="relu")
    return build_model_with_cfg(ByobNet, "plain_byobnet", pretrained, model_cfg=shape, **kwargs)
