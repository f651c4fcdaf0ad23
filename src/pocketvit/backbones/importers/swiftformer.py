"""The official SwiftFormer."""

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
from pocketvit.backbones.swiftformer import SPECS
from pocketvit.backbones.weights_file import Tensors

__all__ = ["IMPORTERS", "variant"]

_RULES: tuple[Rule, ...] = (
    (r"^patch_embed\.", "stem."),
    (r"^network\.(\d+)\.", between_stages),
    (r"^dist_head\.", "head_dist."),
    (r"\.attn\.Proj\.", ".attn.proj."),
    (r"\.(layer_scale(?:_[12])?)$", r".\1.gamma"),
)

variant = by_shape(
    "SwiftFormer",
    [("stem.3.weight", 0), *((f"stages.{index}.downsample.proj.weight", 0) for index in (1, 2, 3))],
    {name: spec.widths for name, spec in SPECS.items()},
)


def _convert(tensors: Tensors) -> Converted:
    return two_classifiers(rename(tensors, _RULES))


IMPORTERS = (
    Importer(
        family="SwiftFormer",
        code_base="Amshaker/SwiftFormer",
        licence="Apache-2.0",
        marks=(
            r"patch_embed\.0\.weight$",
            r"network\.\d+\.\d+\.dwconv\.weight$",
            r"network\.\d+\.\d+\.attn\.w_g$",
        ),
        convert=_convert,
        variant=variant,
        wrappers=first("model"),
    ),
)
