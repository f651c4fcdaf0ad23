from __future__ import annotations

import numpy as np
import pytest

from pocketvit.data.decode import decode_image
from pocketvit.data.readers.pnm import pnm_bytes


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_pixels_survive(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = np.asarray(decode_image(pnm_bytes(pixels)))
    assert np.array_equal(found, pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2))
