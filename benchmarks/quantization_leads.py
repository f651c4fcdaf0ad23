"""Whether another method loses less than `pocket`, and how sure that is: for quantization_tables.py."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
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
class Furthest:
    """Of `compared` methods on one network, at one width and scope, the one that is furthest ahead."""

    network: str
    label: str
    scope: str
    compared: int
    method: str
    lead: Lead


def furthest_ahead(found: Row) -> Iterator[Furthest]:
    """By network, scope and width: of all that was run there but `pocket` and its files."""
    for network, scope, label in product(found["networks"], ("partial", "full"), ("W8A8", "W6A6")):
        place = (network, scope, label)
        cells = [c for c in found["cells"] if (c["model"], c["scope"], c["label"]) == place]
        methods = by_method(cells)
        ours = methods.pop("pocket", [])
        n = found["networks"][network]["n"]
        leads = {m: lead(ours, c, n) for m, c in methods.items() if ours and not m.startswith("pocket")}
        if leads:
            method = max(leads, key=lambda name: leads[name].ratio)
            yield Furthest(network, label, scope, len(leads), method, leads[method])


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
    ahead = 100 * (fmean(cell["drop"] for cell in ours) - fmean(cell["drop"] for cell in others))
    if all("right" in cell for cell in [*ours, *others]):
        differences = hits(others, n) - hits(ours, n)
        return Lead(ahead, 100 * float(differences.std()) / math.sqrt(n), exact=True)
    moved = sum(1 - fmean(cell["agreement"] for cell in cells) for cells in (ours, others))
    return Lead(ahead, 100 * math.sqrt(moved / n), exact=False)


def packed(right: Sequence[bool] | Tensor) -> str:
    """Which images a method got right, a bit each, as hexadecimal digits."""
    return np.packbits(np.asarray(right, dtype=bool)).tobytes().hex()


def hits(cells: list[Row], n: int) -> np.ndarray:
    """How often each image was got right in `cells`, 0 to 1."""
    bits = (np.frombuffer(bytes.fromhex(cell["right"]), dtype=np.uint8) for cell in cells)
    return np.mean([np.unpackbits(mine, count=n) for mine in bits], axis=0)
