"""Verify that an integer file classifies as the simulation that chose its scales."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pocketvit.core.errors import VerificationError
from pocketvit.core.names import unknown_name
from pocketvit.deployment.openvino import has_openvino, open_compiled
from pocketvit.deployment.session import open_session
from pocketvit.quantization import QuantizedNetwork

__all__ = [
    "ACCURACY_TOLERANCE",
    "MIN_INTEGER_AGREEMENT",
    "IntegerVerification",
    "open_integer",
    "verify_integer",
]

MIN_INTEGER_AGREEMENT = 0.995
"""Smallest share of images of the same first class.

Logits are not compared with a bound: a result that lies between two steps may be rounded either way when
float operators in between sum in another order, and such a step, passed on, moves others. Over a network
that grows to a tenth of the quantization noise. The simulation would add as much of its own in float32, so it
is run in float64, where sums of integers are exact.
"""

ACCURACY_TOLERANCE = 0.002


@dataclass(frozen=True, kw_only=True)
class IntegerVerification:
    """A file in one runtime beside its simulation.

    Attributes:
        runtime: `onnxruntime` or `openvino`.
        n: images compared.
        agreement: share of images of the same first class.
        accuracy_simulation: top-1 of the simulation, a fraction.
        accuracy_file: top-1 of the file.
        mean_difference: of logits, as a share of their mean size.
        passed: whether agreement is 99.5 % and accuracies are within 0.2 points, or one image.
    """

    runtime: str
    n: int
    agreement: float
    accuracy_simulation: float
    accuracy_file: float
    mean_difference: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """For result files."""
        return asdict(self)


def verify_integer(
    network: QuantizedNetwork,
    path: Path,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    runtimes: Sequence[str] | None = None,
    strict: bool = True,
) -> list[IntegerVerification]:
    """Run the simulation, in float64, and the file on the same images, in each runtime.

    Args:
        network: as given to `export_integer`.
        batches: prepared images (B, 3, S, S) and class indices (B,).
        runtimes: by default ONNX Runtime, and OpenVINO where it is installed.
        strict: whether a difference beyond the bounds is an error.

    Raises:
        VerificationError: a bound is broken, or there was nothing to compare.
        UnknownNameError: no such runtime.
    """
    if runtimes is None:
        runtimes = [name for name in _OPEN if name != "openvino" or has_openvino()]
    runs = {name: open_integer(path, runtime=name) for name in runtimes}
    logits: dict[str, list[Tensor]] = {name: [] for name in ("simulation", *runs)}
    truth: list[Tensor] = []
    exact = copy.deepcopy(network).double()
    with torch.inference_mode():
        for images, labels in batches:
            logits["simulation"].append(exact(images.double()))
            for name, run in runs.items():
                logits[name].append(run(images))
            truth.append(labels)
    if not truth:
        raise VerificationError("There are no images to verify the integer file with.")
    whole = {name: torch.cat(parts).double() for name, parts in logits.items()}
    found = [_compared(name, whole["simulation"], whole[name], torch.cat(truth)) for name in runs]
    failed = [result for result in found if not result.passed]
    if strict and failed:
        worst = min(failed, key=lambda result: result.agreement)
        raise VerificationError(
            f"In {worst.runtime}, {path} does not classify as the simulation does: {worst.agreement:.1%} of "
            f"{worst.n} images get the same class (required {MIN_INTEGER_AGREEMENT:.1%}), accuracy is "
            f"{worst.accuracy_file:.1%} instead of {worst.accuracy_simulation:.1%}.",
            fix="Verify with more images; if it stays, please report the model's name and the versions.",
        )
    return found


def open_integer(path: Path, *, runtime: str) -> Callable[[Tensor], Tensor]:
    """Logits of prepared images (B, 3, S, S) as a runtime computes them, on one thread.

    Raises:
        UnknownNameError: no such runtime.
        ConfigError: it is not installed.
        CheckpointError: it cannot open the file.
    """
    if runtime not in _OPEN:
        raise unknown_name("runtime", runtime, _OPEN)
    return _OPEN[runtime](path)


def _compared(runtime: str, want: Tensor, got: Tensor, truth: Tensor) -> IntegerVerification:
    agreement = _share(want.argmax(1) == got.argmax(1))
    before, after = _share(want.argmax(1) == truth), _share(got.argmax(1) == truth)
    allowed = max(ACCURACY_TOLERANCE, 1 / len(truth)) + 1e-9  # not less than one image can make
    return IntegerVerification(
        runtime=runtime,
        n=len(truth),
        agreement=agreement,
        accuracy_simulation=before,
        accuracy_file=after,
        mean_difference=float((want - got).abs().mean() / want.abs().mean()),
        passed=agreement >= MIN_INTEGER_AGREEMENT and abs(before - after) <= allowed,
    )


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _in_onnxruntime(path: Path) -> Callable[[Tensor], Tensor]:
    session = open_session(path, threads=1)
    return lambda images: torch.from_numpy(np.asarray(session.run(["logits"], {"image": images.numpy()})[0]))


def _in_openvino(path: Path) -> Callable[[Tensor], Tensor]:
    request = open_compiled(path, threads=1).create_infer_request()
    return lambda images: torch.from_numpy(np.array(request.infer({"image": images.numpy()})[0]))


_OPEN: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "onnxruntime": _in_onnxruntime,
    "openvino": _in_openvino,
}
