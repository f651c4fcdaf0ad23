"""Run an exported classifier, knowing nothing but the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pocketvit.core.errors import DataError
from pocketvit.core.machine import physical_cores
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment.session import open_session
from pocketvit.tasks.card import ModelCard
from pocketvit.tasks.classification import Classification, ClassificationTask

__all__ = ["ExportedClassifier"]


class ExportedClassifier:
    """A file written by `export_onnx`, opened in ONNX Runtime on the CPU.

    Called with prepared images, (B, 3, S, S), it returns logits, (B, C), both torch tensors: usable where
    a network is, such as `pocketvit.tasks.evaluate`.

    Attributes:
        card: what the file says about itself: classes, preprocessing, licences.
        metadata: all its key-value pairs.
    """

    def __init__(self, session: ort.InferenceSession, *, where: str) -> None:
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        self.card = card = ModelCard.from_metadata(self.metadata, where=where)
        self._session = session
        self._prepare = eval_transform(card.preprocessing)
        self._task = ClassificationTask(classes=card.classes)

    @classmethod
    def load(cls, path: Path, *, threads: int | None = None) -> ExportedClassifier:
        """Open an exported file.

        Args:
            threads: how many compute one image; by default all physical cores.

        Raises:
            CheckpointError: the file is missing, damaged, or not written by pocketvit.
        """
        return cls(open_session(path, threads=threads or physical_cores()), where=str(path))

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, (B, C), of prepared images, (B, 3, S, S).

        Raises:
            DataError: another shape or number type.
        """
        size = self.card.preprocessing.size
        if batch.shape[1:] != (3, size, size) or batch.dtype != np.float32:
            raise DataError(
                f"{self.card.name} takes float32 images of shape (batch, 3, {size}, {size}), "
                f"not {batch.dtype} {batch.shape}."
            )
        (logits,) = self._session.run(["logits"], {"image": batch})
        return np.asarray(logits, dtype=np.float32)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, (B, C), of prepared images, (B, 3, S, S)."""
        return torch.from_numpy(self.logits(images.numpy()))

    def predict(self, images: Sequence[Image.Image]) -> list[Classification]:
        """One result per image, prepared as the file says."""
        if not images:
            return []
        return self._task.decode(self(torch.stack([self._prepare(image) for image in images])))
