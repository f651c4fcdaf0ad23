"""Which tensors of a file fit a network, and how to say it when some do not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pocketvit.core.names import nearest

__all__ = ["Match", "match_tensors", "with_nearest"]

SHOWN = 3  # keys named in a message


@dataclass(frozen=True, kw_only=True)
class Match:
    """A file's tensors beside a network's.

    Attributes:
        total: tensors of the network.
        missing: names of the network that the file lacks.
        tolerated: those of `missing` that may be.
        unexpected: names of the file that the network lacks.
        misshapen: names that both have with different shapes: (of the file, of the network).
    """

    total: int
    missing: list[str]
    tolerated: list[str]
    unexpected: list[str]
    misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def matched(self) -> int:
        """Tensors of the network that the file has in the same shape."""
        return self.total - len(self.missing) - len(self.misshapen)

    @property
    def fits(self) -> bool:
        """Whether nothing is missing (beyond what is tolerated), unexpected or misshapen."""
        return not (self._needed or self.unexpected or self.misshapen)

    @property
    def _needed(self) -> list[str]:
        return [key for key in self.missing if key not in self.tolerated]

    def describe(self) -> str:
        """Counts, and the first names of each kind with the nearest on the other side."""
        missing = [with_nearest(key, self.unexpected) for key in self._needed[:SHOWN]]
        unexpected = [with_nearest(key, self._needed) for key in self.unexpected[:SHOWN]]
        shapes = [f"{key} {given} for {own}" for key, (given, own) in self.misshapen.items()][:SHOWN]
        return (
            f"{self.matched} of {self.total} tensors match"
            + _list("missing", missing, len(self._needed))
            + _list("unexpected", unexpected, len(self.unexpected))
            + _list("of another shape", shapes, len(self.misshapen))
        )


def match_tensors(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, tolerated: Collection[str] = ()
) -> Match:
    """Compare names and shapes.

    Args:
        own: the network's tensors.
        given: the file's.
        tolerated: names that the file may lack.
    """
    missing = [key for key in own if key not in given]
    return Match(
        total=len(own),
        missing=missing,
        tolerated=[key for key in missing if key in tolerated],
        unexpected=[key for key in given if key not in own],
        misshapen={
            key: (tuple(given[key].shape), tuple(own[key].shape))
            for key in own
            if key in given and given[key].shape != own[key].shape
        },
    )


def with_nearest(key: str, others: Iterable[str]) -> str:
    """`key`, and the one of `others` that is most like it if any is."""
    close = nearest(key, others, n=1)
    return f"{key} (nearest: {close[0]})" if close else key


def _list(what: str, shown: list[str], count: int) -> str:
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    return f"; {what}: {', '.join(shown)}{more}" if shown else ""
