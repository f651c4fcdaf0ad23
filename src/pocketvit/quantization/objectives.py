"""What a search minimises: how far an operator's output is from the float network's."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

__all__ = ["Cosine", "GradientWeighted", "Objective", "SquaredError"]


class Objective(ABC):
    """A distance between outputs, 0 where they are equal."""

    def __init__(self, target: Tensor) -> None:
        self.target = target

    @abstractmethod
    def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
        """The distance of `output` from the target.

        Args:
            keep: a dimension whose indices are scored one by one, as when each channel has its own scale.

        Returns:
            Shape () or (size of dimension `keep`,).
        """


class SquaredError(Objective):
    """E[(o − ô)²]."""

    @override
    def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
        return _mean((output - self.target).square_(), keep)


class GradientWeighted(Objective):
    """E[(g · (o − ô))²], the loss to second order with diag(g²) for the Hessian of the output.

    Sources: Q-HyViT, hybrid reconstruction; PTQ4ViT, section 3.2.


    Args:
        gradient: g = ∂L/∂O of the shape of the target; only its size relative to itself matters.
    """

    def __init__(self, target: Tensor, gradient: Tensor) -> None:
        super().__init__(target)
        # Gradients are around 1e-6, their squares below what float32 adds up well.
        self.gradient = gradient / gradient.abs().max().clamp_min(torch.finfo(gradient.dtype).tiny)

    @override
    def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
        return _mean((output - self.target).mul_(self.gradient).square_(), keep)


class Cosine(Objective):
    """1 − cos(o, ô), where o is all an operator returns for one image; averaged over images.

    With `keep`, o is all that belongs to one index, of all images together: one channel may be a single
    number an image, which has no direction.

    Source: EasyQuant (arXiv 2006.16669), scale optimization.
    """

    def __init__(self, target: Tensor) -> None:
        super().__init__(target)
        self._wanted: dict[int | None, Tensor] = {}

    @override
    def __call__(self, output: Tensor, *, keep: int | None = None) -> Tensor:
        if keep not in self._wanted:
            self._wanted[keep] = _vectors(self.target, keep)
        # ½|o/‖o‖ − ô/‖ô‖|² is the same and loses no digits when the two are close.
        distance = (_vectors(output, keep) - self._wanted[keep]).square_().sum(dim=1) / 2
        return distance.mean() if keep is None else distance


def _vectors(x: Tensor, keep: int | None) -> Tensor:
    """Rows of length 1: for each image, or for each index of dimension `keep`."""
    return functional.normalize((x if keep is None else x.movedim(keep, 0)).flatten(1), dim=1)


def _mean(error: Tensor, keep: int | None) -> Tensor:
    if keep is None:
        return error.mean()
    return error.mean(dim=[d for d in range(error.dim()) if d != keep % error.dim()])
