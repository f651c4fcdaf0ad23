"""CAS-ViT under its names in timm's registry, so that timm's own tools and `timm.create_model` can use it.

The signatures are timm's: it calls an entry point with the options of its builder, of which CAS-ViT has
`num_classes`, `in_chans`, `global_pool`, `drop_path_rate` and `output_stride`; any other is an error.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from pocketvit.backbones.cas_vit import SPECS, CASViT, CASViTSpec

__all__: list[str] = []


def _cfg(size: int, crop: float) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": crop,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.0",
        "classifier": "head",
        "paper_ids": "arXiv:2408.03703",
        "paper_name": "CAS-ViT: Convolutional Additive Self-attention Vision Transformers",
        "origin_url": "https://github.com/Tianfang-Zhang/CAS-ViT",
    }


_cfgs: dict[str, Any] = {f"{name}.in1k": _cfg(224, 0.875) for name in SPECS}
_cfgs |= {f"{name}.in1k_384": _cfg(384, 1.0) for name in SPECS}
default_cfgs = generate_default_cfgs(_cfgs)


def _build(
    spec: CASViTSpec,
    *,
    num_classes: int = 1000,
    in_chans: int = 3,
    global_pool: str = "avg",
    drop_path_rate: float = 0.0,
    output_stride: int = 32,
) -> CASViT:
    model = CASViT(spec, num_classes=num_classes, in_chans=in_chans, output_stride=output_stride)
    model.global_pool = global_pool
    model.set_drop_path(drop_path_rate)
    return model


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    features = {"feature_cls": "getter", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(
        partial(_build, SPECS[variant]), variant, pretrained, feature_cfg=features, **kwargs
    )


@register_model
def cas_vit_xs(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CAS-ViT XS."""
    return _create("cas_vit_xs", pretrained, **kwargs)


@register_model
def cas_vit_s(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CAS-ViT S."""
    return _create("cas_vit_s", pretrained, **kwargs)


@register_model
def cas_vit_m(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CAS-ViT M."""
    return _create("cas_vit_m", pretrained, **kwargs)


@register_model
def cas_vit_t(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CAS-ViT T."""
    return _create("cas_vit_t", pretrained, **kwargs)
