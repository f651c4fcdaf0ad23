"""Verify that an integer file classifies as the simulation that chose its scales."""

from __future__ import annotations

import copy
import math
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
from pocketvit.deployment.runtime_rounding import rounded_as
from pocketvit.deployment.session import open_session
from pocketvit.quantization import QuantizedNetwork

__all__ = [
    "ACCURACY_TOLERANCE",
    "MAX_ROUNDING",
    "MIN_INTEGER_AGREEMENT",
    "IntegerVerification",
    "open_integer",
    "verify_integer",
]

MIN_INTEGER_AGREEMENT = 0.995
"""Smallest share of images of the same first class.

A result that lies between two steps may be rounded either way when operators in float sum in another
order, and such a step, passed on, moves others. So the simulation is run in float64, where sums of
integers are exact.
"""

ACCURACY_TOLERANCE = 0.002

MAX_ROUNDING = 1.5
"""A file may differ from its simulation so many times as much as the simulation in float32 does.

In some networks a single step that goes the other way moves others until logits differ by a tenth of the
quantization noise, in whatever computes in float32. A file that computes something else differs by far more.
"""


@dataclass(frozen=True, kw_only=True)
class IntegerVerification:
    """A file in one runtime beside its simulation in float64.

    Attributes:
        runtime: `onnxruntime` or `openvino`.
        n: images compared.
        agreement: share of images of the same first class.
        accuracy_simulation: top-1 of the simulation, a fraction.
        accuracy_file: top-1 of the file.
        mean_difference: of logits, as a share of their mean size.
        rounding_agreement: `agreement` of the simulation that rounds in float32 as the runtime does.
        rounding_difference: its `mean_difference`.
        passed: whether agreement is 99.5 % and accuracies are within 0.2 points, or one image; or logits
            differ by no more than 1.5 times `rounding_difference`, and accuracies by no more than two
            standard errors of what so many changed classes make by chance.
    """

    runtime: str
    n: int
    agreement: float
    accuracy_simulation: float
    accuracy_file: float
    mean_difference: float
    rounding_agreement: float
    rounding_difference: float
    passed: bool

    @classmethod
    def of(
        cls, runtime: str, *, simulation: Tensor, rounding: Tensor, file: Tensor, truth: Tensor
    ) -> IntegerVerification:
        """Compare logits (N, classes): of the simulation, of the same rounded as `runtime` does, of the file.

        Args:
            truth: class indices (N,).
        """
        n, classes = len(truth), simulation.argmax(1)
        agreement = _share(classes == file.argmax(1))
        before, after = _share(classes == truth), _share(file.argmax(1) == truth)
        difference, unavoidable = (_difference(simulation, other) for other in (file, rounding))
        within = max(ACCURACY_TOLERANCE, 1 / n)  # not less than one image can make
        by_chance = 2 * math.sqrt(n * (1 - agreement)) / n
        agrees = agreement >= MIN_INTEGER_AGREEMENT and abs(before - after) <= within + _EXACT
        as_rounded = (
            difference <= MAX_ROUNDING * unavoidable
            and abs(before - after) <= max(within, by_chance) + _EXACT
        )
        return cls(
            runtime=runtime,
            n=n,
            agreement=agreement,
            accuracy_simulation=before,
            accuracy_file=after,
            mean_difference=difference,
            rounding_agreement=_share(classes == rounding.argmax(1)),
            rounding_difference=unavoidable,
            passed=agrees or as_rounded,
        )

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
    """Run the simulation, in float64 and in float32, and the file on the same images, in each runtime.

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
    rounded = {name: rounded_as(name, network) for name in runs}
    exact = copy.deepcopy(network).double()
    simulated: list[Tensor] = []
    found_by: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in runs}
    truth: list[Tensor] = []
    with torch.inference_mode():
        for images, labels in batches:
            simulated.append(exact(images.double()))
            for name, run in runs.items():
                found_by[name].append((rounded[name](images).double(), run(images).double()))
            truth.append(labels)
    if not truth:
        raise VerificationError("There are no images to verify the integer file with.")
    found = []
    for name, parts in found_by.items():
        rounding, file = (torch.cat(logits) for logits in zip(*parts, strict=True))
        found.append(
            IntegerVerification.of(
                name, simulation=torch.cat(simulated), rounding=rounding, file=file, truth=torch.cat(truth)
            )
        )
    failed = [result for result in found if not result.passed]
    if strict and failed:
        worst = min(failed, key=lambda result: result.agreement)
        raise VerificationError(
            f"In {worst.runtime}, {path} does not classify as the simulation does: {worst.agreement:.1%} of "
            f"{worst.n} images get the same class (required {MIN_INTEGER_AGREEMENT:.1%}; rounding in float32 "
            f"alone leaves {worst.rounding_agreement:.1%}), accuracy is {worst.accuracy_file:.1%} instead of "
            f"{worst.accuracy_simulation:.1%}.",
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


_EXACT = 1e-9
"""What shares of images lose in floating point."""


def _difference(want: Tensor, got: Tensor) -> float:
    return float((want - got).abs().mean() / want.abs().mean())


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _in_onnxruntime(path: Path) -> Callable[[Tensor], Tensor]:
    session = open_session(path, threads=1)
    return lambda images: torch.from_numpy(np.asarray(session.run(["logits"], {"image": images.numpy()})[0]))


def _in_openvino(path: Path) -> Callable[[Tensor], Tensor]:
    request = open_compiled(path, threads=1).create_infer_request()  # one by one, as on a device
    return lambda images: torch.cat(
        [torch.from_numpy(np.array(request.infer({"image": image.numpy()})[0])) for image in images.split(1)]
    )


_OPEN: dict[str, Callable[[Path], Callable[[Tensor], Tensor]]] = {
    "onnxruntime": _in_onnxruntime,
    "openvino": _in_openvino,
}
