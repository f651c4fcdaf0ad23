"""Write, verify, announce an integer file; and tell which operators the runtimes execute in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketvit.core.errors import CheckpointError, VerificationError
from pocketvit.data import ImageSplit
from pocketvit.data.splits import Joined
from pocketvit.deployment.delivery import verification_batches
from pocketvit.deployment.integer import export_integer
from pocketvit.deployment.integer_verification import (
    MIN_INTEGER_AGREEMENT,
    IntegerVerification,
    verify_integer,
)
from pocketvit.deployment.openvino import has_openvino, open_compiled
from pocketvit.deployment.precision import OperatorPrecision, precision_table
from pocketvit.deployment.targets import TARGETS
from pocketvit.quantization import QuantizedNetwork
from pocketvit.tasks.card import ModelCard

__all__ = ["deploy_integer"]

_IMAGES = 512
"""Images to verify with. The bound is a share: with far fewer, a single image on the fence would break it."""


def deploy_integer(
    network: QuantizedNetwork,
    path: Path,
    *,
    card: ModelCard,
    images: ImageSplit,
    more_images: ImageSplit,
    cost: Mapping[str, int],
) -> dict[str, Any]:
    """Write an integer file to `path` after it was verified against the simulation.

    A file that fails stays beside it with `.unverified` in its name; an earlier file at `path` stays.

    Args:
        network: calibrated.
        images: held-out images with labels.
        more_images: others, to verify with where the held-out ones are few: whether a file computes what its
            simulation computes does not depend on what the network was trained on.
        cost: `params` and `macs` of the network before it was rewritten.

    Returns:
        File, size, verification and execution by runtime, and which runtimes cannot open the file, for
        `quantization.json`.

    Raises:
        ExportError: a quantizer that no integer kernel executes, named; or the graph cannot be written.
        VerificationError: in ONNX Runtime the file does not classify as the simulation does.
        StorageError: the disk is full or not writable.
    """
    candidate = path.with_suffix(f".unverified{path.suffix}")
    file = export_integer(network, candidate, card=card, cost=cost)
    shown = _enough(images, more_images)
    refused = _refusals(candidate)
    found = verify_integer(
        network,
        candidate,
        verification_batches(shown, card, most=_IMAGES),
        runtimes=[TARGETS["onnx"].runtime, *(["openvino"] if has_openvino() and not refused else [])],
        strict=False,
    )
    _refuse_unverified(found, candidate)
    tables = {result.runtime: precision_table(candidate, runtime=result.runtime) for result in found}
    candidate.replace(path)
    return {
        "file": path.name,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "opset": file.opset,
        "nodes": file.nodes,
        "verification": [result.to_dict() for result in found],
        "refused": refused,
        "execution": _execution(tables),
    }


def _refusals(path: Path) -> dict[str, str]:
    """What OpenVINO says if it cannot compile the file, which ONNX Runtime may well run."""
    if not has_openvino():
        return {}
    try:
        open_compiled(path, threads=1)
    except CheckpointError as error:
        return {"openvino": str(error).splitlines()[0]}
    return {}


def _refuse_unverified(found: Sequence[IntegerVerification], path: Path) -> None:
    """The runtime that the file is for has to pass; what was found in others is told."""
    result = next(result for result in found if result.runtime == TARGETS["onnx"].runtime)
    if not result.passed:
        raise VerificationError(
            f"{path} does not classify as the simulation of it does: in {result.runtime} "
            f"{result.agreement:.1%} of {result.n} images get the same class (required "
            f"{MIN_INTEGER_AGREEMENT:.1%}), accuracy is {result.accuracy_file:.1%} instead of "
            f"{result.accuracy_simulation:.1%}.",
            fix="Do not use this file. Please report the model's name and the versions in run.json.",
        )


def _enough(images: ImageSplit, more: ImageSplit) -> ImageSplit:
    lacking = min(max(0, _IMAGES - len(images)), len(more))
    if not lacking:
        return images
    return Joined([images, more.subset([i * len(more) // lacking for i in range(lacking)])])


def _execution(tables: Mapping[str, Sequence[OperatorPrecision]]) -> list[dict[str, Any]]:
    """A row for each operator: in which precision each runtime executes it, and why not in integers."""
    rows: dict[str, dict[str, Any]] = {}
    for runtime, table in tables.items():
        for found in table:
            row = rows.setdefault(
                found.operator,
                {"operator": found.operator, "kind": found.kind, "precision": {}, "reason": {}},
            )
            row["precision"][runtime] = found.precision
            if found.reason:
                row["reason"][runtime] = found.reason
    return list(rows.values())
