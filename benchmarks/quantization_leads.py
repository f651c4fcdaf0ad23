"""Whether another method loses less than `pocket`, and how sure that is: for quantization_tables.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

Row = dict[str, Any]


@dataclass(frozen=True)
class Lead:
    """Points by which a method loses less than another, and their standard error or, not `exact`, a bound."""

    points: float
    error: float
    exact: bool

    @property
    def ratio(self) -> float:
        """How many standard errors the lead is; where no image tells the two apart, none."""
        return self.points / self.error if self.error else 0.0


@dataclass(frozen=True)
class Rival:
    """A method beside `pocket`: on one network, at one width and scope."""

    network: str
    label: str
    scope: str
    method: str
    lead: Lead

    @property
    def place(self) -> tuple[str, str, str]:
        """The network, the width and the scope."""
        return self.network, self.label, self.scope


@dataclass(frozen=True)
class SecondLook:
    """What was ahead of `pocket`, and its lead on other images."""

    first: Rival
    fresh: Lead


def rivals(found: Row) -> Iterator[list[Rival]]:
    """By network, scope and width: all that was run there but `pocket` and its files."""
    for network, scope, label in product(found["networks"], ("partial", "full"), ("W8A8", "W6A6")):
        cells = [c for c in found["cells"] if (c["model"], c["scope"], c["label"]) == (network, scope, label)]
        methods = by_method(cells)
        ours = methods.pop("pocket", [])
        others = {m: its for m, its in methods.items() if ours and not m.startswith("pocket")}
        n = found["networks"][network]["n"]
        if others:
            yield [Rival(network, label, scope, m, lead(ours, its, n)) for m, its in others.items()]


def furthest(there: list[Rival]) -> Rival:
    """The one that is furthest ahead, in standard errors."""
    return max(there, key=lambda rival: rival.lead.ratio)


def ahead(found: Row) -> list[Rival]:
    """All that lose less than `pocket`, by however little."""
    return [rival for place in rivals(found) for rival in place if rival.lead.points > 0]


def second_look(found: Row, fresh: Row) -> Iterator[SecondLook]:
    """What is ahead in `found`, where `fresh` has cells of it, on other images: of one trained network."""
    again = {(*rival.place, rival.method): rival.lead for there in rivals(fresh) for rival in there}
    for rival in ahead(found):
        weights = [of["networks"].get(rival.network, {}).get("weights") for of in (found, fresh)]
        lead = again.get((*rival.place, rival.method))
        if lead and weights[0] == weights[1]:
            yield SecondLook(rival, lead)


def second_look_beside(results: Path) -> Path:
    """Where the second look at what a file of results has ahead of `pocket` is written."""
    return results.with_name(f"{results.stem}_second_look.json")


def by_method(cells: list[Row]) -> dict[str, list[Row]]:
    """The draws of each."""

    def method(cell: Row) -> str:
        return cell["method"]

    return {name: list(draws) for name, draws in groupby(sorted(cells, key=method), method)}


def lead(ours: list[Row], others: list[Row], n: int) -> Lead:
    """The lead of `others`, scored on the same `n` images, whose draws count together.

    Where the cells say which images they got right, the standard error is that of the differences, image by
    image. Else: an image that only one of two methods gets right is in different classes for the two, and so
    in another class than the float network's for at least one. The share q of images that either moved is no
    less than the variance of the differences, and sqrt(q / n) no less than the standard error.
    """
    points = 100 * (fmean(cell["drop"] for cell in ours) - fmean(cell["drop"] for cell in others))
    if all("right" in cell for cell in [*ours, *others]):
        differences = hits(others, n) - hits(ours, n)
        return Lead(points, 100 * float(differences.std()) / math.sqrt(n), exact=True)
    moved = sum(1 - fmean(cell["agreement"] for cell in cells) for cells in (ours, others))
    return Lead(points, 100 * math.sqrt(moved / n), exact=False)


def packed(right: Sequence[bool] | Tensor) -> str:
    """Which images a method got right, a bit each, as hexadecimal digits."""
    return np.packbits(np.asarray(right, dtype=bool)).tobytes().hex()


def hits(cells: list[Row], n: int) -> np.ndarray:
    """How often each image was got right in `cells`, 0 to 1."""
    bits = (np.frombuffer(bytes.fromhex(cell["right"]), dtype=np.uint8) for cell in cells)
    return np.mean([np.unpackbits(mine, count=n) for mine in bits], axis=0)
