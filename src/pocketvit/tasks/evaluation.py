"""Evaluate a classifier: the network in torch or the exported file, by the same code on the same images."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from pocketvit.data import ImageSplit
from pocketvit.tasks.classification import ClassificationScore, ClassificationTask, Proportion

__all__ = ["Batch", "Evaluation", "Mistake", "Predict", "evaluate", "torch_predictor"]

Predict = Callable[[Tensor], Tensor]
"""Images (B, 3, S, S) to logits (B, C): a network, or a session of an exported file."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (B, 3, S, S), class indices (B,), positions in the split (B,)."""

MAX_MISTAKES = 12
THUMBNAIL = 160
"""Longest side of a mistake's picture, pixels."""

_DIGITS = 6


@dataclass(frozen=True)
class Mistake:
    """An image that was called something else.

    Attributes:
        key: the image's name in its split.
        true: its class.
        predicted: what it was called.
        confidence: the probability given to that.
        image: a small JPEG as a data URI.
    """

    key: str
    true: str
    predicted: str
    confidence: float
    image: str


@dataclass(frozen=True)
class Evaluation:
    """A classifier's score on a split.

    Attributes:
        split: name of the split.
        score: the metrics.
        classes: class names.
        mistakes: the most confident ones first.
    """

    split: str
    score: ClassificationScore
    classes: tuple[str, ...]
    mistakes: tuple[Mistake, ...]

    def to_dict(self) -> dict[str, Any]:
        """The content of `evaluation.json`."""
        score = self.score
        content: dict[str, Any] = {
            "split": self.split,
            "n": score.n,
            "loss": round(score.loss, _DIGITS),
            "top1": _rounded(score.top1),
        }
        if score.top5 is not None:
            content["top5"] = _rounded(score.top5)
        return content | {
            "interval": "Wilson 95%",
            "per_class": [
                {
                    "name": name,
                    "n": one.n,
                    "recall": round(one.recall, _DIGITS),
                    "precision": round(one.precision, _DIGITS),
                }
                for name, one in zip(self.classes, score.classes, strict=True)
            ],
            "confusion": [list(row) for row in score.confusion],
            "mistakes": [
                {
                    "key": mistake.key,
                    "true": mistake.true,
                    "predicted": mistake.predicted,
                    "confidence": round(mistake.confidence, _DIGITS),
                    "image": mistake.image,
                }
                for mistake in self.mistakes
            ],
        }


def evaluate(
    predict: Predict,
    loader: Iterable[Batch],
    task: ClassificationTask,
    *,
    split: ImageSplit,
    name: str = "val",
    max_mistakes: int = MAX_MISTAKES,
) -> Evaluation:
    """Score `predict` on every image of `loader` and show where it was confidently wrong.

    Args:
        predict: a network (see `torch_predictor`) or an exported file.
        loader: batches over `split`, in evaluation transforms.
        split: where the pictures of the mistakes come from.
        name: the split's name in the result.
        max_mistakes: how many mistakes to keep.
    """
    wrong: list[tuple[float, int, int, int]] = []  # confidence, -position, true, predicted
    metrics = task.metrics()
    for images, targets, positions in loader:
        logits = predict(images)  # (B, C)
        metrics.update(logits, targets)
        confidence, called = logits.float().softmax(dim=1).max(dim=1)  # (B,), (B,)
        rows = zip(confidence.tolist(), positions.tolist(), targets.tolist(), called.tolist(), strict=True)
        mistakes = [(p, -position, true, guess) for p, position, true, guess in rows if true != guess]
        wrong = heapq.nlargest(max_mistakes, wrong + mistakes)
    return Evaluation(
        split=name,
        score=metrics.compute(),
        classes=task.classes,
        mistakes=tuple(
            Mistake(
                key=split.key(-position),
                true=task.classes[true],
                predicted=task.classes[guess],
                confidence=p,
                image=_thumbnail(split.load(-position)),
            )
            for p, position, true, guess in wrong
        ),
    )


def torch_predictor(
    model: nn.Module, device: torch.device, *, memory_format: torch.memory_format = torch.contiguous_format
) -> Predict:
    """`model` in evaluation mode and float32, without gradients; logits come back on the CPU."""
    model.eval()

    @torch.inference_mode()
    def predict(images: Tensor) -> Tensor:
        return model(images.to(device, memory_format=memory_format, non_blocking=True)).float().cpu()

    return predict


def _thumbnail(image: Image.Image) -> str:
    """A JPEG data URI; small pictures (8×8 digits) are enlarged by whole pixels so that they can be seen."""
    if max(image.size) < THUMBNAIL // 4:
        scale = THUMBNAIL // 2 // max(image.size)
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    else:
        image = image.copy()
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _rounded(proportion: Proportion) -> dict[str, float]:
    return {
        "value": round(proportion.value, _DIGITS),
        "low": round(proportion.low, _DIGITS),
        "high": round(proportion.high, _DIGITS),
    }
