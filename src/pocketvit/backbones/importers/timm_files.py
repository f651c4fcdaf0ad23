"""Files that have timm's names: this library's families are recognised, any other model has to be named."""

from __future__ import annotations

from functools import partial

from pocketvit.backbones.importers import cvnets, efficientformer, swiftformer
from pocketvit.backbones.importers.importer import Importer, unchanged

__all__ = ["IMPORTERS", "named_importer"]

CODE_BASE = "huggingface/pytorch-image-models"

_timm = partial(Importer, code_base=CODE_BASE, licence=None, convert=unchanged)


def named_importer(name: str) -> Importer:
    """The importer of a file that has the names of the registered model `name`."""
    return _timm(family=name, marks=(), variant=lambda _: name, derived=(efficientformer.BIAS_INDICES,))


IMPORTERS = (
    _timm(
        family="MobileViT",
        marks=(r"stem\.conv\.weight$", r"stages\.\d\.1\.transformer\.\d+\.attn\.qkv\.", r"final_conv\."),
        variant=cvnets.mobilevit_variant,
    ),
    _timm(
        family="MobileViTv2",
        marks=(r"stem\.conv\.weight$", r"stages\.\d\.1\.transformer\.\d+\.attn\.qkv_proj\."),
        variant=cvnets.mobilevitv2_variant,
    ),
    _timm(
        family="SwiftFormer",
        marks=(r"stem\.0\.weight$", r"stages\.\d\.blocks\.\d+\.attn\.w_g$"),
        variant=swiftformer.variant,
    ),
    _timm(
        family="EfficientFormer",
        marks=(r"stem\.conv1\.weight$", r"stages\.\d\.blocks\.\d+\.token_mixer\.qkv\."),
        variant=efficientformer.v1_variant,
        derived=(efficientformer.BIAS_INDICES,),
    ),
    _timm(
        family="EfficientFormerV2",
        marks=(r"stem\.conv1\.conv\.weight$", r"stages\.\d\.blocks\.\d+\.token_mixer\.talking_head1\."),
        variant=efficientformer.v2_variant,
        derived=(efficientformer.BIAS_INDICES,),
    ),
)
