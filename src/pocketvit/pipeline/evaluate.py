"""Score a run's network or an exported file on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pocketvit.core.errors import ConfigError, DataError
from pocketvit.data import ImageData, ImageSplit, open_images
from pocketvit.data.loader import make_loader
from pocketvit.data.splits import Joined
from pocketvit.data.transforms import eval_transform
from pocketvit.pipeline.load import Classifier, load_classifier
from pocketvit.tasks import ClassificationTask, evaluate

__all__ = ["Part", "evaluate_on", "with_classes_of"]

Part = Literal["val", "train", "all"]


def evaluate_on(
    model: Path,
    data: str | None,
    *,
    split: Part,
    val_fraction: float,
    seed: int,
    limit: int | None,
    max_damaged: float,
    batch_size: int,
) -> dict[str, Any]:
    """Score a classifier.

    Args:
        model: a run directory or an exported file.
        data: labelled images; by default what the run was trained on, split as it was then.
        split: which part of them.
        val_fraction, seed, limit, max_damaged: as `open_images` takes them, for `data` that is given.

    Returns:
        The content of `evaluation.json`.

    Raises:
        ConfigError: an exported file on its own, and no data.
        DataError: the data has classes the model does not know.
    """
    classifier = load_classifier(model, prefer_exported=False)
    if data is None:
        images = _training_data(classifier)
    else:
        images = open_images(data, val_fraction=val_fraction, seed=seed, limit=limit, max_damaged=max_damaged)
    part = with_classes_of(_part(images, split), images.classes, classifier.card.classes)
    prepare = eval_transform(classifier.card.preprocessing)
    loader = make_loader(part, prepare, batch_size=batch_size, cache_bytes=0)
    task = ClassificationTask(classes=classifier.card.classes)
    return evaluate(classifier.predict, loader, task, split=part, name=split).to_dict()


def _training_data(classifier: Classifier) -> ImageData:
    """What the run was trained on, split as it was then."""
    if classifier.run is None:
        raise ConfigError("On which images?", fix="Give --data, or a run directory instead of a file.")
    saved = classifier.run.read("run.json")["config"]
    settings = {key: saved[key] for key in ("val_fraction", "seed", "limit", "max_damaged")}
    return open_images(saved["data"], **settings)


def _part(images: ImageData, split: Part) -> ImageSplit:
    if split == "all":
        return Joined([images.train, images.val])
    return images.val if split == "val" else images.train


def with_classes_of(part: ImageSplit, theirs: tuple[str, ...], ours: tuple[str, ...]) -> ImageSplit:
    """`part` with labels that index `ours`.

    Raises:
        DataError: it has classes that are not among `ours`.
    """
    unknown = [name for name in theirs if name not in ours]
    if unknown:
        known = ", ".join(ours[:10]) + (", …" if len(ours) > 10 else "")
        raise DataError(
            f"The model does not know these classes: {', '.join(unknown[:5])}. It knows: {known}",
            fix="Evaluate on data whose class folders have the same names.",
        )
    index = [ours.index(name) for name in theirs]
    return part.relabelled([index[label] for label in part.labels])
