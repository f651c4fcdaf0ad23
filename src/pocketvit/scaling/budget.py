"""The largest registered model that fits a budget, counted on the real network at the real size.

The rule, in words: take the highest resolution the data warrants at which at least one model fits, and there
the model with the most multiply-accumulates (MACs). Pixels come first because a small network on sharp images
beats a large one on blurred ones when the MACs are equal, and because parameters do not change with the
resolution, so the file stays small.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from pocketvit.backbones import BuildOptions, ModelEntry, create_model, get_entry, list_models
from pocketvit.backbones.complexity import Complexity, measure_complexity
from pocketvit.backbones.options import DEFAULTS
from pocketvit.core.errors import BudgetError, ConfigError

__all__ = [
    "RESOLUTIONS",
    "Budget",
    "Candidate",
    "Choice",
    "architectures",
    "choose_model",
    "warranted_resolution",
]

RESOLUTIONS = (256, 224, 192, 160, 128, 96, 64)
"""Input sizes tried, pixels; all multiples of 32, the coarsest stride of every family."""

_VARIANT = re.compile(r"(_in22k_ft_in1k)?(_384)?$")
"""How the registry marks other weights of the same architecture."""

NOT_CHOSEN = {"baseline", "efficientformerv2", "mobile_former"}
"""Families never chosen on their own: those to compare with, and those whose MACs say little about their
speed: EfficientFormerV2 is slower in ONNX Runtime than the others at equal MACs, and Mobile-Former, of many
small operations, has not been measured here yet."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Upper limits; `None` is no limit. `macs` is for one image."""

    macs: int | None = None
    params: int | None = None

    def allows(self, *, macs: int, params: int) -> bool:
        """Whether a network of that cost fits."""
        return (self.macs is None or macs <= self.macs) and (self.params is None or params <= self.params)

    def __str__(self) -> str:
        limits = [
            f"{value / 1e6:g} M {unit}"
            for value, unit in ((self.macs, "MACs"), (self.params, "parameters"))
            if value is not None
        ]
        return " and ".join(limits) or "no limit"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One architecture at one size, counted."""

    name: str
    resolution: int
    params: int
    macs: int
    fits: bool
    chosen: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen, from what, and why."""

    name: str
    resolution: int
    params: int
    macs: int
    reason: str
    budget: Budget
    candidates: tuple[Candidate, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, part of `model.json`."""
        return asdict(self)


def warranted_resolution(typical_size: int) -> int:
    """The smallest of `RESOLUTIONS` that does not throw pixels away, for images of `typical_size` pixels.

    Never below 64, where the last stage of a stride-32 network still sees 2 × 2 positions.
    """
    return min((size for size in RESOLUTIONS if size >= typical_size), default=max(RESOLUTIONS))


def choose_model(
    *,
    num_classes: int,
    typical_size: int,
    budget: Budget,
    model: str | None = None,
    options: BuildOptions = DEFAULTS,
    resolution: int | None = None,
) -> Choice:
    """Choose a registered model, counting every candidate by tracing it at the real size.

    Args:
        num_classes: classes of the head; they count as parameters too.
        typical_size: median short side of the images, pixels; limits the resolution tried.
        budget: what the network may cost.
        model: only this model; its resolution is still searched unless given or unless it takes only one.
        options: how `model` is built; counted that way too.
        resolution: only this input size, pixels.

    Raises:
        BudgetError: nothing fits; names what came nearest.
        ConfigError: `model` takes only another `resolution`, or cannot be built with these `options`; or
            options without a `model`.
        UnknownNameError: `model` is not registered.
    """
    if model is None and options != DEFAULTS:
        raise ConfigError(
            f"Options of which model? ({', '.join(options.to_dict())})", fix="Name it with --model."
        )
    names = [get_entry(model).name] if model else architectures()
    sizes = (resolution,) if resolution else _sizes_from(warranted_resolution(typical_size))
    if model and not (entry := get_entry(model)).any_size:
        sizes = (_only_size(entry, resolution),)
    tried: list[Candidate] = []
    for size in sizes:
        counted = [_count(name, options, size, num_classes, budget) for name in names]
        tried += counted
        fitting = [candidate for candidate in counted if candidate.fits]
        if fitting:
            best = max(fitting, key=lambda candidate: (candidate.macs, -candidate.params))
            return _choice(best, tried, budget, asked_for=model, first_size=sizes[0])
    raise _nothing_fits(tried, budget, asked_for=model)


def architectures() -> list[str]:
    """Registered models to choose from.

    Not those that differ from another only in their published weights, that take images of one size only, or
    whose family is in `NOT_CHOSEN`; `--model` still takes them all.
    """
    entries = [get_entry(name) for name in list_models() if _VARIANT.sub("", name) == name]
    return [entry.name for entry in entries if entry.any_size and entry.family not in NOT_CHOSEN]


def _only_size(entry: ModelEntry, resolution: int | None) -> int:
    size = entry.preprocessing.size
    if resolution not in (None, size):
        raise ConfigError(
            f"{entry.name} takes images of {size} px only, not {resolution}.",
            fix=f"Leave the resolution out or set it to {size}, or choose another model.",
        )
    return size


def _sizes_from(largest: int) -> tuple[int, ...]:
    return tuple(size for size in RESOLUTIONS if size <= largest)


def _count(name: str, options: BuildOptions, size: int, num_classes: int, budget: Budget) -> Candidate:
    cost = _cost(name, options, size, num_classes)
    fits = budget.allows(macs=cost.macs, params=cost.params)
    return Candidate(name=name, resolution=size, params=cost.params, macs=cost.macs, fits=fits)


@cache
def _cost(name: str, options: BuildOptions, size: int, num_classes: int) -> Complexity:
    with torch.device("meta"):  # shapes only: nothing is allocated and nothing is computed
        return measure_complexity(create_model(name, num_classes=num_classes, **options.to_dict()), size)


def _choice(
    best: Candidate, tried: list[Candidate], budget: Budget, *, asked_for: str | None, first_size: int
) -> Choice:
    if asked_for:
        reason = f"{best.name} was asked for"
    else:
        fitting = sum(candidate.fits for candidate in tried)
        reason = (
            f"{best.name} is the largest of the {fitting} that fit"
            if fitting > 1
            else f"Only {best.name} fits"
        )
        reason += f" ({budget})"
    if best.resolution == first_size:
        reason += f" at {best.resolution} px."
    else:
        reason += (
            f" at {best.resolution} px, the highest at which one fits (tried from {first_size} px down)."
        )
    candidates = tuple(_explained(candidate, best, budget) for candidate in tried)
    return Choice(
        name=best.name,
        resolution=best.resolution,
        params=best.params,
        macs=best.macs,
        reason=reason,
        budget=budget,
        candidates=candidates,
    )


def _explained(candidate: Candidate, best: Candidate, budget: Budget) -> Candidate:
    values = asdict(candidate)
    if candidate == best:
        values.update(chosen=True, note="chosen")
    elif candidate.fits:
        values.update(note=f"fits, but {best.name} is larger")
    else:
        values.update(note=_excess(candidate, budget))
    return Candidate(**values)


def _excess(candidate: Candidate, budget: Budget) -> str:
    over: list[str] = []
    if budget.macs is not None and candidate.macs > budget.macs:
        over.append(f"{candidate.macs / budget.macs:.3g}× the MACs")
    if budget.params is not None and candidate.params > budget.params:
        over.append(f"{candidate.params / budget.params:.3g}× the parameters")
    return " and ".join(over) + " allowed"


def _nothing_fits(tried: list[Candidate], budget: Budget, *, asked_for: str | None) -> BudgetError:
    def overrun(candidate: Candidate) -> float:
        return max(
            candidate.macs / (budget.macs or candidate.macs),
            candidate.params / (budget.params or candidate.params),
        )

    nearest = min(tried, key=overrun)
    cost = f"{nearest.macs / 1e6:.1f} M MACs and {nearest.params / 1e6:.2f} M parameters"
    return BudgetError(
        f"No model tried fits {budget}: the nearest of {len(tried)} is {nearest.name} at "
        f"{nearest.resolution} px with {cost}.",
        fix="Raise --macs or --params"
        + (", or lower --resolution." if nearest.resolution > min(RESOLUTIONS) else ".")
        + ("" if asked_for else f" {', '.join(_left_out())} are only taken by name, with --model."),
    )


def _left_out() -> list[str]:
    """What `architectures` leaves out for its family, as `pocketvit models` takes it."""
    families = sorted(NOT_CHOSEN - {"baseline"})
    return [f"{family}_*" for family in families]
