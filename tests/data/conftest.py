from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocketvit.backbones.preprocessing import Preprocessing


@pytest.fixture
def pre() -> Preprocessing:
    return Preprocessing(
        size=24, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation="bicubic", crop=0.9
    )


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """A smooth, asymmetric RGB image that differs with `seed`."""

    def make(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)

    return make


@pytest.fixture(scope="session")
def encoded(picture: Callable[..., Image.Image]) -> Callable[..., bytes]:
    """An image file's bytes."""

    def encode(image: Image.Image | int = 0, format: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        (picture(image) if isinstance(image, int) else image).save(buffer, format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def folder(tmp_path: Path, encoded: Callable[..., bytes]) -> Callable[..., Path]:
    """Write `{"cat": 3, "dog/nested": 2}` as that many different PNG images in these folders."""
    serial = iter(range(10**6))

    def write(counts: dict[str, int], root: Path | None = None) -> Path:
        root = root or tmp_path / "photos"
        for name, count in counts.items():
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                (root / name / f"{i:03d}.png").write_bytes(encoded(next(serial)))
        return root

    return write
