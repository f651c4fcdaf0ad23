from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
import torchvision

from pocketvit.core.errors import DataError, UnknownNameError
from pocketvit.data.readers.torchvision_sets import TORCHVISION_SETS, read_torchvision


def test_every_name_is_torchvisions():
    assert all(hasattr(torchvision.datasets, name) for name in TORCHVISION_SETS)


def test_fake_data(tmp_path):
    listing = read_torchvision("fakedata", root=tmp_path)
    assert (listing.name, len(listing.classes), len(listing.train), len(listing.val)) == (
        "FakeData",
        10,
        200,
        50,
    )
    reference = torchvision.datasets.FakeData(size=200, image_size=(3, 32, 32), num_classes=10)
    image, label = reference[7]
    assert listing.train.labels[7] == label
    assert np.array_equal(np.asarray(listing.train.load(7)), np.asarray(image))
    assert {listing.train.key(i) for i in range(200)}.isdisjoint(listing.val.key(i) for i in range(50))


@pytest.fixture
def fashion(tmp_path):
    """Six images in the files of Fashion-MNIST."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, 6, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 6) + bytes(range(6)))
    return tmp_path, images


def test_a_set_on_disk_is_read_and_reopened_by_copies(fashion):
    root, images = fashion
    listing = read_torchvision("FashionMNIST", root=root)
    assert listing.classes[:2] == ("T-shirt/top", "Trouser")
    assert listing.train.labels == list(range(6))
    assert listing.train.key(3) == "FashionMNIST-train#3"
    copy = pickle.loads(pickle.dumps(listing.val))
    assert np.array_equal(np.asarray(copy.load(2))[:, :, 0], images[2])
    assert copy.content(2) == listing.val.content(2)
    assert len(pickle.dumps(listing.val)) < 1000


def test_no_network(tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(DataError, match=r"CIFAR10 is not in .* and cannot be downloaded") as caught:
        read_torchvision("CIFAR10", root=tmp_path)
    assert "copy its files" in caught.value.fix


def test_unknown_name(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean cifar10"):
        read_torchvision("CIFAR-10", root=tmp_path)
