"""Image classification: one of C classes for each image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

__all__ = [
    "ClassScore",
    "Classification",
    "ClassificationMetrics",
    "ClassificationScore",
    "ClassificationTask",
    "Proportion",
    "wilson_interval",
]

TOP_5_FROM = 6
"""Number of classes from which a top-5 accuracy says anything."""

_Z_95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Classification:
    """What a network says about one image.

    Attributes:
        probabilities: shape (C,), in [0, 1], summing to 1.
        classes: the C class names in the same order.

    Raises:
        ValueError: shapes, range or sum are not as said above.
    """

    probabilities: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.classes),):
            raise ValueError(
                f"{len(self.classes)} classes need probabilities of shape ({len(self.classes)},), "
                f"got {tuple(self.probabilities.shape)}."
            )
        low, high = self.probabilities.min().item(), self.probabilities.max().item()
        total = self.probabilities.sum().item()
        if not (low >= 0 and high <= 1 + 1e-4 and abs(total - 1) <= 1e-3):
            raise ValueError(f"Not probabilities: from {low:.4g} to {high:.4g}, sum {total:.6g}.")

    def top(self, k: int = 1) -> list[tuple[str, float]]:
        """The `k` most probable classes (all when there are fewer) with their probabilities, best first."""
        values, indices = self.probabilities.topk(min(k, len(self.classes)))
        return [(self.classes[i], p) for i, p in zip(indices.tolist(), values.tolist(), strict=True)]


class ClassificationTask:
    """Softmax cross-entropy over C classes.

    Args:
        classes: class names; their order is the order of the network's outputs.
    """

    def __init__(self, *, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, computed in float32.

        Args:
            outputs: logits, (B, C).
            targets: class indices, (B,), or probabilities, (B, C), from label smoothing, mixup and CutMix.
        """
        return F.cross_entropy(outputs.float(), targets)

    def decode(self, outputs: Tensor) -> list[Classification]:
        """One result for each row of the logits (B, C)."""
        probabilities = outputs.detach().float().softmax(dim=1).cpu()  # (B, C)
        return [Classification(row, self.classes) for row in probabilities]

    def metrics(self) -> ClassificationMetrics:
        """Fresh metrics for these classes."""
        return ClassificationMetrics(num_classes=len(self.classes))


@dataclass(frozen=True)
class Proportion:
    """A fraction of n with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """How one class fared.

    Attributes:
        n: images of the class.
        recall: fraction of them that were recognised; 0 when there are none.
        precision: fraction of the images called this class that are of it; 0 when none was.
    """

    n: int
    recall: float
    precision: float


@dataclass(frozen=True)
class ClassificationScore:
    """The metrics of one network on one set of images.

    Attributes:
        n: images.
        loss: mean cross-entropy without label smoothing, nats.
        top1: fraction with the right class first.
        top5: fraction with the right class among the first five; None below six classes.
        classes: one entry per class, in class order.
        confusion: counts; row = true class, column = predicted class.
    """

    n: int
    loss: float
    top1: Proportion
    top5: Proportion | None
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]

    @property
    def value(self) -> float:
        """Top-1 accuracy."""
        return self.top1.value


class ClassificationMetrics:
    """Loss, top-1, top-5, confusion matrix, recall and precision.

    Args:
        num_classes: C.
    """

    def __init__(self, *, num_classes: int) -> None:
        self._loss = 0.0
        self._confusion = MulticlassConfusionMatrix(num_classes)
        self._top5 = (
            MulticlassAccuracy(num_classes, top_k=5, average="micro") if num_classes >= TOP_5_FROM else None
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            outputs: logits, (B, C).
            targets: class indices, (B,).
        """
        outputs, targets = outputs.detach().float().cpu(), targets.cpu()
        self._loss += F.cross_entropy(outputs, targets, reduction="sum").item()
        self._confusion.update(outputs, targets)
        if self._top5 is not None:
            self._top5.update(outputs, targets)

    def compute(self) -> ClassificationScore:
        """The score over all batches; at least one must have been added."""
        confusion = self._confusion.compute().long()  # (C, C)
        right, true, called = confusion.diag(), confusion.sum(1), confusion.sum(0)  # (C,) each
        n = int(true.sum())
        top5 = None
        if self._top5 is not None:
            top5 = wilson_interval(round(float(self._top5.compute()) * n), n)
        return ClassificationScore(
            n=n,
            loss=self._loss / n,
            top1=wilson_interval(int(right.sum()), n),
            top5=top5,
            classes=tuple(
                ClassScore(n=t, recall=r / max(t, 1), precision=r / max(c, 1))
                for r, t, c in torch.stack([right, true, called], dim=1).tolist()
            ),
            confusion=tuple(tuple(row) for row in confusion.tolist()),
        )


def wilson_interval(successes: int, n: int) -> Proportion:
    """The fraction `successes / n` with its Wilson score interval at 95% (Wilson 1927).

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); unlike p ± z·s it stays inside [0, 1] and is honest for
    few images and for fractions near 1.
    """
    p, z = successes / n, _Z_95
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Proportion(value=p, low=max(0.0, (centre - half) / scale), high=min(1.0, (centre + half) / scale))
