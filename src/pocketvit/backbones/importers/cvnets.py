"""Apple's ml-cvnets: MobileViT and MobileViTv2."""

from __future__ import annotations

import re

from pocketvit.backbones.importers.importer import Converted, Importer, Rule, by_shape, rename, sizes_at
from pocketvit.backbones.mobilevit import SPECS
from pocketvit.backbones.mobilevitv2 import MobileViTV2Spec
from pocketvit.backbones.weights_file import Tensors
from pocketvit.core.errors import CheckpointError

__all__ = ["IMPORTERS", "mobilevit_variant", "mobilevitv2_variant"]

CODE_BASE = "apple/ml-cvnets"
LICENCE = "Apple sample-code licence (ml-cvnets; not open source)"
STEM = "stem.conv.weight"

STAGES = tuple((f"stages.{index}.0.conv3_1x1.conv.weight", 0) for index in range(5))
MOST_PERCENT = 999  # the widest MobileViTv2 that has a name
ATTENTIONS = tuple((f"stages.{index}.1.conv_1x1.weight", 0) for index in (2, 3, 4))


def _stage(match: re.Match[str]) -> str:
    return f"stages.{int(match[1]) - 1}."


_SHARED: tuple[Rule, ...] = (
    (r"\.block\.conv\.", ".conv."),
    (r"\.block\.norm\.", ".bn."),
    (r"^conv_1\.", "stem."),
    (r"^layer_(\d+)\.", _stage),
    (r"\.block\.exp_1x1\.", ".conv1_1x1."),
    (r"\.block\.conv_3x3\.", ".conv2_kxk."),
    (r"\.block\.red_1x1\.", ".conv3_1x1."),
    (r"\.global_rep\.(\d+)\.pre_norm_(?:mha|attn)\.0\.", r".transformer.\1.norm1."),
    (r"\.global_rep\.(\d+)\.pre_norm_ffn\.0\.", r".transformer.\1.norm2."),
    (r"\.global_rep\.(\d+)\.(weight|bias)$", r".norm.\2"),
)
_V1: tuple[Rule, ...] = (
    *_SHARED,
    (r"\.local_rep\.conv_3x3\.", ".conv_kxk."),
    (r"\.local_rep\.conv_1x1\.conv\.", ".conv_1x1."),
    (r"\.global_rep\.(\d+)\.pre_norm_mha\.1\.qkv_proj\.", r".transformer.\1.attn.qkv."),
    (r"\.global_rep\.(\d+)\.pre_norm_mha\.1\.out_proj\.", r".transformer.\1.attn.proj."),
    (r"\.global_rep\.(\d+)\.pre_norm_ffn\.1\.", r".transformer.\1.mlp.fc1."),
    (r"\.global_rep\.(\d+)\.pre_norm_ffn\.4\.", r".transformer.\1.mlp.fc2."),
    (r"\.fusion\.", ".conv_fusion."),
    (r"^conv_1x1_exp\.", "final_conv."),
    (r"^classifier\.fc\.", "head.fc."),
)
_V2: tuple[Rule, ...] = (
    *_SHARED,
    (r"\.local_rep\.0\.", ".conv_kxk."),
    (r"\.local_rep\.1\.conv\.", ".conv_1x1."),
    (r"\.global_rep\.(\d+)\.pre_norm_attn\.1\.(qkv|out)_proj\.conv\.", r".transformer.\1.attn.\2_proj."),
    (r"\.global_rep\.(\d+)\.pre_norm_ffn\.1\.conv\.", r".transformer.\1.mlp.fc1."),
    (r"\.global_rep\.(\d+)\.pre_norm_ffn\.3\.conv\.", r".transformer.\1.mlp.fc2."),
    (r"^classifier\.1\.", "head.fc."),
)

mobilevit_variant = by_shape("MobileViT", STAGES, {name: spec.widths for name, spec in SPECS.items()})


def mobilevitv2_variant(tensors: Tensors) -> str:
    """Any width; of those with the same channels, the roundest."""
    places = ((STEM, 0), *STAGES, *ATTENTIONS)
    sizes = sizes_at("MobileViTv2", places, tensors)
    for step in (25, 10, 5, 1):
        for percent in range(step, MOST_PERCENT + 1, step):
            spec = MobileViTV2Spec(width=percent / 100)
            if sizes == (spec.stem, *spec.widths, *spec.dims):
                return f"mobilevitv2_{percent:03d}"
    raise CheckpointError(
        f"This is a MobileViTv2 of no width: channels {sizes}.",
        fix="Only networks of the paper's proportions can be imported.",
    )


def _convert_v1(tensors: Tensors) -> Converted:
    return Converted(tensors=rename(tensors, _V1))


def _convert_v2(tensors: Tensors) -> Converted:
    return Converted(tensors=rename(tensors, _V2))


IMPORTERS = (
    Importer(
        family="MobileViT",
        code_base=CODE_BASE,
        licence=LICENCE,
        marks=(
            r"conv_1\.block\.conv\.weight$",
            r"layer_\d\.1\.global_rep\.\d+\.pre_norm_mha\.",
            r"conv_1x1_exp\.",
        ),
        convert=_convert_v1,
        variant=mobilevit_variant,
        channels="bgr",  # as OpenCV reads images; since version 0.2 the code itself reads RGB
    ),
    Importer(
        family="MobileViTv2",
        code_base=CODE_BASE,
        licence=LICENCE,
        marks=(r"conv_1\.block\.conv\.weight$", r"layer_\d\.1\.global_rep\.\d+\.pre_norm_attn\."),
        convert=_convert_v2,
        variant=mobilevitv2_variant,
    ),
)
