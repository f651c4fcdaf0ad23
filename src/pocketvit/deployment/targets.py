"""The capability table: which file formats a network is written in as it is, at which precisions.

Files that compute in integers need images to choose these by: see `integer_delivery`.

The command line's choices, the refusals below and the documentation's table all come from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pocketvit.core.errors import ConfigError
from pocketvit.core.names import unknown_name

__all__ = ["TARGETS", "Target", "check_target"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A file format, and what can be done with it.

    Attributes:
        name: as typed on the command line.
        file_format: as people call it.
        file_name: the deliverable in the run directory.
        runtime: what runs the file, and verifies it here.
        precisions: number formats of weights and arithmetic.
    """

    name: str
    file_format: str
    file_name: str
    runtime: str
    precisions: tuple[str, ...]


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="onnx",
            file_format="ONNX",
            file_name="model.onnx",
            runtime="onnxruntime",
            precisions=("float32",),
        ),
    )
}
"""Every target that exists, by name."""


def check_target(target: str = "onnx", precision: str = "float32") -> Target:
    """The `target`, when it can be written at `precision`.

    Raises:
        UnknownNameError: there is no such target.
        ConfigError: the target does not exist at this precision.
    """
    if target not in TARGETS:
        raise unknown_name("export target", target, TARGETS, see=f"There is: {', '.join(TARGETS)}.")
    found = TARGETS[target]
    if precision not in found.precisions:
        raise ConfigError(
            f"{found.file_format} files cannot be written at precision '{precision}'.",
            fix=f"Possible with {target}: {', '.join(found.precisions)}. Integers are chosen by images: "
            "`pocketvit quantize RUN`, or `pocketvit build … --bits 8`.",
        )
    return found
