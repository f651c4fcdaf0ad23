"""Classify image files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pocketvit.core.errors import DamagedImageError, DataError
from pocketvit.data.decode import IMAGE_SUFFIXES, decode_image
from pocketvit.data.transforms import eval_transform
from pocketvit.pipeline.load import load_classifier
from pocketvit.tasks import ClassificationTask

__all__ = ["predict_files"]


def predict_files(model: Path, images: list[str], *, top: int, batch_size: int) -> list[dict[str, Any]]:
    """Classify images, an answer each, in the order given.

    Args:
        model: a run directory or an exported file.
        images: files, or folders that are searched through for image files.
        top: classes in each answer.
        batch_size: images computed at a time.

    Returns:
        For each image `{"image", "top": [{"class", "probability"}, …]}`, or `{"image", "problem"}`.

    Raises:
        DataError: a path does not exist, or a folder holds no images.
        CheckpointError, RunError: see `load_classifier`.
    """
    classifier = load_classifier(model, prefer_exported=True)
    prepare = eval_transform(classifier.card.preprocessing)
    task = ClassificationTask(classes=classifier.card.classes)
    answers: list[dict[str, Any]] = []
    for paths in _batches(_image_files(images), batch_size):
        prepared: list[torch.Tensor] = []
        rows: list[dict[str, Any]] = []
        for path in paths:
            row: dict[str, Any] = {"image": str(path)}
            try:
                prepared.append(prepare(decode_image(path)))
            except DamagedImageError as error:
                row["problem"] = error.message.removeprefix(f"{path}: ")
            rows.append(row)
        results = iter(task.decode(classifier.predict(torch.stack(prepared))) if prepared else [])
        for row in rows:
            if "problem" not in row:
                best = next(results).top(top)
                row["top"] = [{"class": name, "probability": round(p, 6)} for name, p in best]
        answers += rows
    return answers


def _image_files(sources: list[str]) -> list[Path]:
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            found = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise DataError(
                    f"{source} holds no images.", fix=f"Known endings: {', '.join(IMAGE_SUFFIXES)}."
                )
            files += found
        elif source.exists():
            files.append(source)
        else:
            raise DataError(f"There is no {source}.", fix="Give image files or folders.")
    return files


def _batches(paths: list[Path], size: int) -> Iterator[list[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
