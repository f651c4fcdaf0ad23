"""The official CAS-ViT, whose names this library keeps."""

from __future__ import annotations

from pocketvit.backbones.cas_vit import SPECS
from pocketvit.backbones.importers.importer import Converted, Importer, by_shape
from pocketvit.backbones.weights_file import Tensors

__all__ = ["IMPORTERS"]

_FIRST, _SECOND = "head.", "dist_head."


def _convert(tensors: Tensors) -> Converted:
    """Where there are two classifiers, whose outputs the official code averages, average them instead."""
    seconds = {key: value for key, value in tensors.items() if key.startswith(_SECOND)}
    pairs = {key.replace(_SECOND, _FIRST): value for key, value in seconds.items()}
    if not pairs or any(key not in tensors or tensors[key].shape != pairs[key].shape for key in pairs):
        return Converted(tensors=tensors)
    kept = {key: value for key, value in tensors.items() if key not in seconds}
    means = {key: (kept[key] + value) / 2 for key, value in pairs.items()}
    change = "The two classifiers were averaged into one, which gives the mean of their outputs."
    return Converted(tensors=kept | means, changes=(change,))


IMPORTERS = (
    Importer(
        family="CAS-ViT",
        code_base="Tianfang-Zhang/CAS-ViT",
        licence="not stated (the official code is MIT)",
        marks=(
            r"patch_embed\.0\.weight$",
            r"network\.\d+\.\d+\.local_perception\.",
            r"network\.\d+\.\d+\.attn\.oper_q\.",
        ),
        convert=_convert,
        variant=by_shape(
            "CAS-ViT",
            [("patch_embed.3.weight", 0), *((f"network.{index}.proj.weight", 0) for index in (1, 3, 5))],
            {name: spec.widths for name, spec in SPECS.items()},
        ),
    ),
)
