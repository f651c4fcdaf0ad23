"""Export, verify, announce: a file gets its final name only once it is known to be right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.core.console import progress_bar
from pocketvit.data import ImageSplit
from pocketvit.data.transforms import eval_transform
from pocketvit.deployment.dataflow import trace_flow
from pocketvit.deployment.onnx import export_onnx
from pocketvit.deployment.session import RUNTIME
from pocketvit.deployment.targets import check_target
from pocketvit.deployment.verification import MIN_AGREEMENT, TOLERANCE, verify
from pocketvit.tasks.card import ModelCard, readable

__all__ = ["deploy", "verification_batches"]

_IMAGES = 256
"""Images to verify with; taken evenly across the split, since images often lie sorted by class."""

_BATCH = 16


def deploy(
    model: nn.Module,
    folder: Path,
    *,
    card: ModelCard,
    images: ImageSplit,
    target: str = "onnx",
    precision: str = "float32",
    tolerance: float | None = None,
    min_agreement: float = MIN_AGREEMENT,
) -> dict[str, Any]:
    """Write `model.onnx` into `folder` after it was verified on (up to 256 of) the `images`.

    A file that fails stays beside it as `model.unverified.onnx`; an earlier `model.onnx` is left as it is.

    Args:
        images: held-out images with labels.
        tolerance: largest difference of the logits as a share of the largest logit; by default 1e-4.
        min_agreement: smallest fraction of images given the same first class.

    Returns:
        The content of `export.json`.

    Raises:
        ConfigError: this target or precision does not exist.
        ExportError: the network cannot be written in this format.
        VerificationError: the file does not compute what the network computes.
        StorageError: the disk is full or not writable.
    """
    kind = check_target(target, precision)
    final = folder / kind.file_name
    candidate = final.with_suffix(f".unverified{final.suffix}")
    file = export_onnx(model, candidate, card=card)
    verification = verify(
        model,
        candidate,
        verification_batches(images, card, most=_IMAGES),
        tolerance=TOLERANCE if tolerance is None else tolerance,
        min_agreement=min_agreement,
    )
    candidate.replace(final)
    return {
        "file": final.name,
        "format": kind.file_format,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "opset": file.opset,
        "runtime": RUNTIME,
        "dynamic_batch": True,
        "nodes": file.nodes,
        "seconds": round(file.seconds, 2),
        "cost_before_rewrites": {
            "params": int(file.metadata["params"]),
            "macs": int(file.metadata["macs"]),
            "activations": trace_flow(model, size=card.preprocessing.size).elements,
        },
        "rewrites": [rewrite.to_dict() for rewrite in file.rewrites],
        "metadata": readable(file.metadata),
        "verification": verification.to_dict(),
    }


def verification_batches(
    images: ImageSplit, card: ModelCard, *, most: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, S, S) and labels (B,): no more than `most`, evenly across the split."""
    prepare = eval_transform(card.preprocessing)
    chosen = range(0, len(images), max(1, -(-len(images) // most)))
    with progress_bar() as bar:
        for start in bar.track(range(0, len(chosen), _BATCH), description="verifying"):
            part = chosen[start : start + _BATCH]
            yield (
                torch.stack([prepare(images.load(i)) for i in part]),
                torch.tensor([images.labels[i] for i in part]),
            )
