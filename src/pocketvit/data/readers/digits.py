"""The handwritten digits that scikit-learn ships: 1,797 scans of 8 by 8 pixels, no download."""

from __future__ import annotations

from typing import Any

import numpy as np

from pocketvit.data.readers.listing import Listing
from pocketvit.data.readers.pnm import pnm_bytes
from pocketvit.data.splits import MemorySplit

__all__ = ["read_digits"]


def read_digits() -> Listing:
    """The digits 0 to 9; ink levels 0..16 become grey 0..255."""
    from sklearn.datasets import load_digits  # takes a second to import

    scans: Any = load_digits()
    grey = np.round(scans.images * (255 / 16)).astype(np.uint8)
    return Listing(
        name="digits",
        classes=tuple(str(digit) for digit in scans.target_names),
        train=MemorySplit(
            [f"digit-{i:04d}" for i in range(len(grey))],
            [pnm_bytes(scan) for scan in grey],
            [int(label) for label in scans.target],
        ),
        val=None,
    )
