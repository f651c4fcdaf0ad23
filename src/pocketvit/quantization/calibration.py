"""The images a method may look at, and what the operators of a network do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from pocketvit.core.errors import DataError
from pocketvit.quantization.network import QuantizedNetwork
from pocketvit.quantization.operators import Operator

__all__ = ["Calibration", "Sample", "check_finite", "float_logits", "output_gradients", "samples"]

_MEMORY = 1 << 30
"""Bytes of activations that are held at a time."""

_GRADIENT_BATCH = 4

T = TypeVar("T")


@dataclass(frozen=True)
class Calibration:
    """Training images prepared as for evaluation.

    Attributes:
        images: (N, C, H, W).
        labels: (N,) class indices, where known; only looked at to warn of a bad choice.

    Raises:
        DataError: no images, numbers that are not finite, or images of a single class.
    """

    images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or len(self.images) == 0:
            raise DataError(
                f"There are no calibration images (shape {tuple(self.images.shape)}).",
                fix="Give prepared training images, (N, channels, height, width); 32 do.",
            )
        if not torch.isfinite(self.images).all():
            raise DataError(
                "The calibration images hold numbers that are not finite.",
                fix="Look at how they are prepared: a standard deviation of 0 does that.",
            )
        if self.labels is not None and len(self.labels) > 1 and len(self.labels.unique()) == 1:
            raise DataError(
                "All calibration images are of one class; ranges found on them would not fit the others.",
                fix="Draw the images from all classes.",
            )


@dataclass(frozen=True)
class Sample:
    """What one operator did in the float network.

    Attributes:
        inputs: the tensors it read, (N, …) each.
        output: what it returned.
    """

    inputs: tuple[Tensor, ...]
    output: Tensor


def samples(
    network: QuantizedNetwork, calibration: Calibration, operators: Sequence[Operator] | None = None
) -> Iterator[tuple[Operator, Sample]]:
    """Every operator with what it read and returned while the whole network computed in float, in order.

    Runs the network as often as needed to hold no more than a gigabyte at a time. What a method does to the
    operators it was already given does not change the samples that follow, unless it changes weights.
    """
    wanted = list(network.operators.values()) if operators is None else list(operators)
    with torch.no_grad(), network.only([]):
        sizes = _record(network, calibration.images[:1], wanted, lambda _, sample: _bytes(sample))
    for part in _parts(wanted, [size * len(calibration.images) for size in sizes]):
        with torch.no_grad(), network.only([]):
            found = _record(network, calibration.images, part, lambda _, sample: sample)
        # Freed one by one, so that a method may build up its own memory meanwhile.
        for operator in part:
            yield operator, found.pop(0)


def check_finite(network: QuantizedNetwork, calibration: Calibration) -> None:
    """Make sure that the float network computes nothing but finite numbers: no range fits others.

    Raises:
        DataError: names the first operator that does not.
    """
    operators = list(network.operators.values())
    with torch.no_grad(), network.only([]):
        fine = _record(network, calibration.images, operators, lambda _, sample: _finite(sample.output))
    for operator, finite in zip(operators, fine, strict=True):
        if operator.weight is not None and not torch.isfinite(operator.weight).all():
            raise DataError(
                f"The weights of {operator.name} are not all finite: the network is damaged.",
                fix="Train it again, or take an earlier checkpoint.",
            )
        if not finite:
            raise DataError(
                f"{operator.name} computes numbers that are not finite on the calibration images.",
                fix="The network itself fails on these images: evaluate it, and look at them.",
            )


def float_logits(network: QuantizedNetwork, calibration: Calibration) -> Tensor:
    """Logits (N, classes) of the float network."""
    with torch.no_grad(), network.only([]):
        return network(calibration.images)


def output_gradients(
    network: QuantizedNetwork,
    calibration: Calibration,
    operators: Sequence[Operator],
    target: Tensor,
) -> dict[str, Tensor]:
    """∂L/∂O of every operator's output in the network's present state, by name, (N, …) each.

    L = KL(softmax(target) ‖ softmax(logits)), averaged over four images at a time (Q-HyViT's and PTQ4ViT's
    released choice). With every operator in float L is at its minimum and the gradients are rounding noise:
    quantize the network first.

    Args:
        target: logits (N, classes) of the float network.

    Raises:
        DataError: every gradient is 0 or some are not finite, so no objective can be made of them.
    """
    gathered: dict[str, list[Tensor]] = {operator.name: [] for operator in operators}
    for start in range(0, len(calibration.images), _GRADIENT_BATCH):
        part = slice(start, start + _GRADIENT_BATCH)
        for name, gradient in _gradients(network, calibration.images[part], target[part], operators).items():
            gathered[name].append(gradient)
    gradients = {name: torch.cat(parts) for name, parts in gathered.items() if parts}
    if not all(torch.isfinite(g).all() for g in gradients.values()):
        raise DataError("The quantized network's loss has no finite gradient on the calibration images.")
    if not any(g.any() for g in gradients.values()):
        raise DataError(
            "All gradients of the quantized network are 0: it computes the same as in float on these images.",
            fix="Calibrate with other images, or take a method without gradients, such as omse.",
        )
    return gradients


def _gradients(
    network: QuantizedNetwork, images: Tensor, target: Tensor, operators: Sequence[Operator]
) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}

    def keep(operator: Operator) -> Callable[..., Tensor]:
        def hook(_: object, __: object, output: Tensor) -> Tensor:
            # What comes from no image, as Mobile-Former's first tokens, has no graph behind it.
            outputs[operator.name] = output if output.requires_grad else output.detach().requires_grad_()
            return outputs[operator.name]

        return hook

    hooks = [operator.register_forward_hook(keep(operator)) for operator in operators]
    try:
        with torch.enable_grad():
            logits = network(images.detach().clone().requires_grad_())
            loss = functional.kl_div(logits.log_softmax(-1), target.softmax(-1), reduction="batchmean")
            found = torch.autograd.grad(
                loss, list(outputs.values()), materialize_grads=True, allow_unused=True
            )
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(outputs, found, strict=True))


def _record(
    network: QuantizedNetwork,
    images: Tensor,
    operators: Sequence[Operator],
    keep: Callable[[Operator, Sample], T],
) -> list[T]:
    found: dict[str, T] = {}

    def listen(operator: Operator) -> Callable[..., None]:
        def hook(_: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[operator.name] = keep(operator, Sample(inputs, output))

        return hook

    hooks = [operator.register_forward_hook(listen(operator)) for operator in operators]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [found[operator.name] for operator in operators]


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _bytes(sample: Sample) -> int:
    return sum(x.numel() * x.element_size() for x in (*sample.inputs, sample.output))


def _parts(operators: Sequence[Operator], sizes: Sequence[int]) -> Iterator[list[Operator]]:
    """Runs of operators whose samples fit the memory together."""
    part: list[Operator] = []
    held = 0
    for operator, size in zip(operators, sizes, strict=True):
        if part and held + size > _MEMORY:
            yield part
            part, held = [], 0
        part.append(operator)
        held += size
    if part:
        yield part
