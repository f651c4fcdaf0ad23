"""The official Mobile-Former, whose names this library keeps."""

from __future__ import annotations

from pocketvit.backbones.importers.importer import Importer, by_shape, first, unchanged
from pocketvit.backbones.mobile_former import SPECS

__all__ = ["IMPORTERS"]

IMPORTERS = (
    Importer(
        family="Mobile-Former",
        code_base="AAboys/MobileFormer",
        licence="none stated (the official repository has no licence: all rights reserved)",
        marks=(
            r"tokens\.weight$",
            r"features\.\d+\.local_global\.",
            r"features\.\d+\.global_block\.",
            r"features\.\d+\.hyper1\.hyper\.",
        ),
        convert=unchanged,
        variant=by_shape(
            "Mobile-Former",
            [
                ("stem.0.weight", 0),
                ("tokens.weight", 0),
                ("classifier.classifier.1.weight", 1),
                ("classifier.conv.1.weight", 1),
            ],
            {
                name: (spec.stem, spec.tokens, spec.hidden, spec.rows[-1].out // spec.groups)
                for name, spec in SPECS.items()
            },
        ),
        wrappers=first("state_dict"),
    ),
)
