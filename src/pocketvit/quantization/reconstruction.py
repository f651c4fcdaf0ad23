"""What Q-HyViT's search minimises: the loss to second order at the output of an operator or its bridge block.

    E[(g · (o − ô))²],   g = ∂L/∂o

(Q-HyViT, section III: hybrid reconstruction). The sum over calibration images is given in parts, the first
of them small: no term is negative, so a candidate whose first images already cost more than the best one
costs altogether need not be tried on the others. That leaves the result of the search as it is, and saves
most where the images with the largest gradients come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from pocketvit.quantization.bridges import Remainder, image_rows
from pocketvit.quantization.calibration import Sample
from pocketvit.quantization.operators import Operator
from pocketvit.quantization.quantizers import Quantizer, UniformQuantizer
from pocketvit.quantization.search import scaled

__all__ = ["Losses", "Reconstruction", "search_scales"]

Losses = Callable[[UniformQuantizer], Iterable[Tensor]]
"""The loss of a candidate in parts, each of shape () or, where every channel is scored alone, (channels,)."""

_FIRST_PART = 4
"""Images; every further part is as large as all before it."""


class Reconstruction:
    """Scores quantizers of one operator, everything it reads being that of the float network.

    Args:
        sample: what the operator reads and returns in float, of `images` images.
        targets: what is compared: the operator's float output, or those of its bridge block.
        gradients: of the loss by each of them, in the quantized network.
        remainder: the way from the operator to the ends of its bridge block; `None` scores its own output.
    """

    def __init__(
        self,
        operator: Operator,
        sample: Sample,
        *,
        images: int,
        targets: Sequence[Tensor],
        gradients: Sequence[Tensor],
        remainder: Remainder | None = None,
    ) -> None:
        self._operator, self._remainder = operator, remainder
        self._slices = _parts(images)
        self._inputs = [[image_rows(x, part, images) for x in sample.inputs] for part in self._slices]
        # gradients are around 1e-6, their squares below what float32 adds up well
        largest = torch.stack([g.abs().max() for g in gradients]).max()
        factor = 1 / largest.clamp_min(torch.finfo(largest.dtype).tiny)
        self._targets = [[image_rows(t, part, images) for t in targets] for part in self._slices]
        self._gradients = [[image_rows(g, part, images) * factor for g in gradients] for part in self._slices]

    @property
    def at_own_output(self) -> bool:
        """Whether the operator is scored by what it returns itself."""
        return self._remainder is None

    def of_weight(self, *, keep: int | None) -> Losses:
        """The loss of a quantizer of the weights; the inputs are quantized as they are now.

        Args:
            keep: dimension of the output whose indices are scored one by one.
        """
        weight = self._operator.weight
        assert weight is not None
        read = [self._operator.quantized_inputs(part) for part in self._inputs]
        return lambda quantizer: self._losses(read, quantizer(weight), keep)

    def of_input(self, index: int, *, keep: int | None) -> Losses:
        """The same for a quantizer of input `index`; weights and other inputs are quantized as now."""
        weight = self._operator.quantized_weight()
        fixed = [self._operator.quantized_inputs(part) for part in self._inputs]

        def losses(quantizer: Quantizer) -> Iterator[Tensor]:
            read = (
                [*now[:index], quantizer(part[index]), *now[index + 1 :]]
                for now, part in zip(fixed, self._inputs, strict=True)
            )
            return self._losses(read, weight, keep)

        return losses

    def _losses(
        self, read: Iterable[list[Tensor]], weight: Tensor | None, keep: int | None
    ) -> Iterator[Tensor]:
        rows = zip(read, self._slices, self._targets, self._gradients, strict=True)
        for inputs, images, targets, gradients in rows:
            output = self._operator.compute(inputs, weight)
            outputs = (output,) if self._remainder is None else self._remainder(output, images)
            errors = (
                _squares((o - t).mul_(g), keep) for o, t, g in zip(outputs, targets, gradients, strict=True)
            )
            yield torch.stack(list(errors)).sum(dim=0)


def search_scales(
    base: UniformQuantizer, grid: Sequence[float], losses: Losses, *, bound: float = torch.inf
) -> tuple[UniformQuantizer, float]:
    """`base` with the factor on its scales that costs least: one factor for all, or one for each channel.

    One for each channel if `losses` are given so. Zero points stay, as the range grows around 0. Ties and
    losses that are not finite leave the factor nearest to 1, so that no objective without a preference ever
    picks a scale of almost 0 (a dead operator).

    Args:
        bound: nothing that costs as much is of interest; looked at where there is one factor for all.

    Returns:
        The best quantizer and its loss, summed over channels; `base` and infinity if none is of interest.
    """
    best: Tensor | None = None
    chosen = torch.ones_like(base.scale)
    with torch.no_grad():
        for factor in sorted(grid, key=lambda f: abs(f - 1)):
            found = _total(losses(scaled(base, factor)), best, bound)
            if found is None:
                continue
            better = torch.isfinite(found) if best is None else found < best
            best = found if best is None else torch.where(better, found, best)
            chosen = torch.where(better, torch.full_like(chosen, factor), chosen)
    if best is None:
        return base, torch.inf
    return scaled(base, chosen), float(best.sum())


def _total(parts: Iterable[Tensor], best: Tensor | None, bound: float) -> Tensor | None:
    """The sum of `parts`; `None` once it clearly is nowhere below `best`, or a single one `bound`."""
    total = None
    for part in parts:
        total = part.double() if total is None else total + part.double()
        limit = best if best is not None else bound if total.dim() == 0 else torch.inf
        if bool((total >= limit).all()):
            return None
    assert total is not None, "there is at least one part"
    return total.nan_to_num(torch.inf, posinf=torch.inf)


def _parts(images: int) -> list[slice]:
    stops = [0, min(_FIRST_PART, images)]
    while stops[-1] < images:
        stops.append(min(2 * stops[-1], images))
    return [slice(*ends) for ends in pairwise(stops)]


def _squares(error: Tensor, keep: int | None) -> Tensor:
    if keep is None:
        return torch.linalg.vector_norm(error).square()
    return error.movedim(keep, 0).flatten(1).square().sum(dim=1)
