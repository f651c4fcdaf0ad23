"""Does an exported file compute what the network computes? Asked of real images before anyone uses it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.core.errors import VerificationError
from pocketvit.deployment.onnx import frozen_copy
from pocketvit.deployment.runtime import ExportedClassifier

__all__ = ["MIN_AGREEMENT", "TOLERANCE", "Verification", "verify"]

TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest logit.

Both sides compute in float32 (unit round-off u = 6e-8) but sum in another order, and the file has batch
normalisations folded into its weights. When rounding errors only ever add up, L layers differ by about L·u of
the signal, 6e-6 for the 100 layers here; over the families 3e-7 to 9e-6 was seen. What has to be caught, such
as a doubled epsilon (1.5e-4 to 9e-4 in briefly trained networks) or a wrong weight, lies above.
"""

MIN_AGREEMENT = 0.99
"""Smallest share of images with the same first class. Within the tolerance only near-ties can differ."""

_SINGLY = 8
"""So many images of the first batch are also run one by one: the batch size people deploy with."""

_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How far an exported file and its network are apart.

    Attributes:
        n: images compared.
        batches: batch sizes the file was run at; 1 is always among them.
        max_abs_diff: largest absolute difference of two logits.
        mean_abs_diff: mean absolute difference.
        tolerance: the bound on `max_abs_diff`, in logits.
        top1_agreement: fraction of images given the same first class.
        min_agreement: the bound on `top1_agreement`.
        accuracy_torch: top-1 of the network on these images, a fraction.
        accuracy_exported: top-1 of the file.
        passed: whether both bounds hold.
    """

    n: int
    batches: tuple[int, ...]
    max_abs_diff: float
    mean_abs_diff: float
    tolerance: float
    top1_agreement: float
    min_agreement: float
    accuracy_torch: float
    accuracy_exported: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """For `export.json`: four significant digits."""
        values = {key: _rounded(value) for key, value in asdict(self).items()}
        return values | {"batches": list(self.batches)}


def verify(
    model: nn.Module,
    path: Path,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    tolerance: float = TOLERANCE,
    min_agreement: float = MIN_AGREEMENT,
) -> Verification:
    """Run `model` (a float32 copy on the CPU) and the file on the same images and compare the logits.

    Args:
        batches: prepared images (B, 3, S, S), class indices (B,), and anything after them, which is ignored.
        tolerance: largest difference, as a share of the largest logit.
        min_agreement: smallest fraction of images with the same first class.

    Raises:
        VerificationError: a bound is broken, or there was nothing to compare.
        CheckpointError: the file cannot be opened.
    """
    result = compare(
        frozen_copy(model),
        ExportedClassifier.load(path),
        batches,
        tolerance=tolerance,
        min_agreement=min_agreement,
    )
    if not result.passed:
        raise VerificationError(
            f"{path} does not compute what the network computes: on {result.n} images logits differ by up to "
            f"{result.max_abs_diff:.3g} (allowed {result.tolerance:.3g}), and {result.top1_agreement:.1%} "
            f"get the same class (required {result.min_agreement:.1%}).",
            fix="Do not use this file. Please report the model's name and the versions in run.json.",
        )
    return result


@torch.inference_mode()
def compare(
    model: nn.Module,
    exported: ExportedClassifier,
    batches: Iterable[tuple[Tensor, ...]],
    *,
    tolerance: float = TOLERANCE,
    min_agreement: float = MIN_AGREEMENT,
) -> Verification:
    """The measurement of `verify`, which judges it.

    Raises:
        VerificationError: there was nothing to compare.
    """
    expected: list[Tensor] = []  # logits of the network, (B, C) each
    found: list[Tensor] = []  # logits of the file
    singly: list[Tensor] = []  # of the first images, each run alone
    targets: list[Tensor] = []
    for images, labels, *_ in batches:
        singly = singly or [exported(image[None]) for image in images[:_SINGLY]]
        expected.append(model(images))
        found.append(exported(images))
        targets.append(labels)
    if not expected:
        raise VerificationError("There are no images to verify the exported file with.")
    sizes = {1, *(len(batch) for batch in expected)}
    want, got, truth = torch.cat(expected).double(), torch.cat(found).double(), torch.cat(targets)
    alone = torch.cat(singly).double()
    difference = torch.cat([got - want, alone - want[: len(alone)]]).abs()  # (N + singly, C)
    largest, limit = difference.max().item(), tolerance * want.abs().max().item()
    agreement = _share(got.argmax(1) == want.argmax(1))
    return Verification(
        n=len(truth),
        batches=tuple(sorted(sizes)),
        max_abs_diff=largest,
        mean_abs_diff=difference.mean().item(),
        tolerance=limit,
        top1_agreement=agreement,
        min_agreement=min_agreement,
        accuracy_torch=_share(want.argmax(1) == truth),
        accuracy_exported=_share(got.argmax(1) == truth),
        passed=largest <= limit and agreement >= min_agreement,  # not-a-number passes no comparison
    )


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
