"""Raw pixels as the bytes of an image file, at the cost of a copy."""

from __future__ import annotations

import numpy as np

__all__ = ["pnm_bytes"]


def pnm_bytes(pixels: np.ndarray) -> bytes:
    """A binary PGM or PPM file, which is a text header and then the pixels.

    Args:
        pixels: (H, W) or (H, W, 3), uint8.
    """
    kind = b"P5" if pixels.ndim == 2 else b"P6"
    return b"%s %d %d 255\n" % (kind, pixels.shape[1], pixels.shape[0]) + pixels.tobytes()
