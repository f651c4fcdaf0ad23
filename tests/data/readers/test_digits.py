from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from pocketvit.data.readers.digits import read_digits


def test_digits_are_scikit_learns():
    listing, reference = read_digits(), load_digits()
    assert listing.classes == tuple("0123456789")
    assert listing.val is None
    assert listing.train.labels == reference.target.tolist()
    for i in (0, 1000, 1796):
        expected = np.round(reference.images[i] * 255 / 16).astype(np.uint8)
        assert np.array_equal(np.asarray(listing.train.load(i)), np.stack([expected] * 3, axis=2))
    assert len({listing.train.key(i) for i in range(1797)}) == 1797
