"""The official EfficientFormer and EfficientFormerV2; the networks are timm's."""

from __future__ import annotations

from pocketvit.backbones.importers.importer import (
    Converted,
    Importer,
    Rule,
    between_stages,
    by_shape,
    first,
    rename,
    two_classifiers,
)
from pocketvit.backbones.weights_file import Tensors

__all__ = ["BIAS_INDICES", "IMPORTERS", "v1_variant", "v2_variant"]

CODE_BASE = "snap-research/EfficientFormer"
LICENCE = "Snap's MIT-style notice, Apache-2.0 for parts (timm tags the weights apache-2.0)"
BIAS_INDICES = ".attention_bias_idxs"  # where each pair of positions finds its bias: no weights

_SHARED: tuple[Rule, ...] = (
    (r"^network\.(\d+)\.", between_stages),
    (r"^dist_head\.", "head_dist."),
    (r"\.layer_scale_([12])$", r".ls\1.gamma"),
)
_V1: tuple[Rule, ...] = (
    *_SHARED,
    (r"^patch_embed\.0\.", "stem.conv1."),
    (r"^patch_embed\.1\.", "stem.norm1."),
    (r"^patch_embed\.3\.", "stem.conv2."),
    (r"^patch_embed\.4\.", "stem.norm2."),
    (r"\.downsample\.proj\.", ".downsample.conv."),
)
_V2: tuple[Rule, ...] = (
    *_SHARED,
    (r"^patch_embed\.0\.", "stem.conv1.conv."),
    (r"^patch_embed\.1\.", "stem.conv1.bn."),
    (r"^patch_embed\.3\.", "stem.conv2.conv."),
    (r"^patch_embed\.4\.", "stem.conv2.bn."),
    (r"\.downsample\.(?:proj|conv)\.", ".downsample.conv.conv."),
    (r"\.downsample\.(?:norm|bn)\.", ".downsample.conv.bn."),
    (r"\.mlp\.(fc1|mid|fc2)\.", r".mlp.\1.conv."),
    (r"\.mlp\.norm([12])\.", r".mlp.fc\1.bn."),
    (r"\.mlp\.mid_norm\.", ".mlp.mid.bn."),
    (r"\.q\.local\.0\.", ".q.local."),
    (r"\.(attn|token_mixer)\.proj\.1\.", r".\1.proj.conv."),
    (r"\.(attn|token_mixer)\.proj\.2\.", r".\1.proj.bn."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.0\.", r".\1.conv."),
    (r"\.(q\.proj|q|k|v|v_local|stride_conv)\.1\.", r".\1.bn."),
)

v1_variant = by_shape(
    "EfficientFormer",
    [("stem.conv2.weight", 0), *((f"stages.{index}.downsample.conv.weight", 0) for index in (1, 2, 3))],
    {
        "efficientformer_l1": (48, 96, 224, 448),
        "efficientformer_l3": (64, 128, 320, 512),
        "efficientformer_l7": (96, 192, 384, 768),
    },
)
v2_variant = by_shape(
    "EfficientFormerV2",
    [
        ("stem.conv2.conv.weight", 0),
        *((f"stages.{index}.downsample.conv.conv.weight", 0) for index in (1, 2, 3)),
    ],
    {
        "efficientformerv2_s0": (32, 48, 96, 176),
        "efficientformerv2_s1": (32, 48, 120, 224),
        "efficientformerv2_s2": (32, 64, 144, 288),
        "efficientformerv2_l": (40, 80, 192, 384),
    },
)


def _convert_v1(tensors: Tensors) -> Converted:
    return two_classifiers(rename(tensors, _V1))


def _convert_v2(tensors: Tensors) -> Converted:
    """Layer scales `(C, 1, 1)` become `(C,)`, which is the same multiplication."""
    renamed = rename(tensors, _V2)
    flat = {key: value.flatten() for key, value in renamed.items() if key.endswith(".gamma")}
    return two_classifiers(renamed | flat)


IMPORTERS = (
    Importer(
        family="EfficientFormer",
        code_base=CODE_BASE,
        licence=LICENCE,
        marks=(r"patch_embed\.0\.weight$", r"network\.\d+\.\d+\.token_mixer\.qkv\."),
        convert=_convert_v1,
        variant=v1_variant,
        wrappers=first("model"),
        derived=(BIAS_INDICES,),
    ),
    Importer(
        family="EfficientFormerV2",
        code_base=CODE_BASE,
        licence=LICENCE,
        marks=(r"patch_embed\.0\.weight$", r"network\.\d+\.\d+\.token_mixer\.talking_head1\."),
        convert=_convert_v2,
        variant=v2_variant,
        wrappers=first("model"),
        derived=(BIAS_INDICES,),
    ),
)
