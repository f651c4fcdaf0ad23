"""Write, verify, announce an integer file; and tell which operators its runtime executes in integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pocketvit.data import ImageSplit
from pocketvit.data.splits import Joined
from pocketvit.deployment.delivery import verification_batches
from pocketvit.deployment.integer import export_integer
from pocketvit.deployment.integer_verification import verify_integer
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
    """Write an integer file to `path` after it was verified against the simulation, in its own runtime.

    A file that fails stays beside it with `.unverified` in its name; an earlier file at `path` stays.

    Args:
        network: calibrated; the file is for its `runtime`.
        images: held-out images with labels.
        more_images: others, to verify with where the held-out ones are few: whether a file computes what its
            simulation computes does not depend on what the network was trained on.
        cost: `params` and `macs` of the network before it was rewritten.

    Returns:
        File, runtime, size, verification and how every operator is executed, for `quantization.json`.

    Raises:
        ExportError: a quantizer that no integer kernel executes, named; or the graph cannot be written.
        VerificationError: the file does not classify as the simulation does.
        ConfigError: the runtime is not installed.
        StorageError: the disk is full or not writable.
    """
    candidate = path.with_suffix(f".unverified{path.suffix}")
    file = export_integer(network, candidate, card=card, cost=cost)
    runtime = network.runtime or TARGETS["onnx"].runtime
    batches = verification_batches(_enough(images, more_images), card, most=_IMAGES)
    found = verify_integer(network, candidate, batches, runtimes=[runtime])
    execution = _execution(runtime, precision_table(candidate, runtime=runtime))
    candidate.replace(path)
    return {
        "file": path.name,
        "runtime": runtime,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "opset": file.opset,
        "nodes": file.nodes,
        "verification": [result.to_dict() for result in found],
        "execution": execution,
    }


def _enough(images: ImageSplit, more: ImageSplit) -> ImageSplit:
    lacking = min(max(0, _IMAGES - len(images)), len(more))
    if not lacking:
        return images
    return Joined([images, more.subset([i * len(more) // lacking for i in range(lacking)])])


def _execution(runtime: str, table: Sequence[OperatorPrecision]) -> list[dict[str, Any]]:
    """A row for each operator: in which precision the runtime executes it, and why not in integers."""
    return [
        {
            "operator": found.operator,
            "kind": found.kind,
            "precision": {runtime: found.precision},
            "reason": {runtime: found.reason} if found.reason else {},
        }
        for found in table
    ]
