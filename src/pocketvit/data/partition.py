"""Which images are used for what: stratified by class, and the same whatever else changes.

Images are put in the order of a hash of (seed, image), so that no random generator is involved: the choice
is the same with every version of every library, and adding images moves few of the others.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from pocketvit.core.errors import DataError

__all__ = ["balanced_sample", "stratified_sample", "stratified_split"]


def stratified_split(
    labels: Sequence[int], ids: Sequence[str], *, val_fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, both ascending.

    Of every class about `val_fraction` is set aside: at least one image when it has two, and at least one
    image stays. Images of a class with the same id (exact copies) stay on one side when that is possible.

    Args:
        ids: what identifies each image, such as the hash of its content.
    """
    val: list[int] = []
    for members in _by_class(labels).values():
        order = sorted(members, key=lambda i: (_hash(seed, "split", ids[i]), i))
        wanted = min(max(round(val_fraction * len(order)), 1), len(order) - 1)
        cuts = [c for c in range(1, len(order)) if ids[order[c - 1]] != ids[order[c]]]
        cut = min(cuts, key=lambda c: (abs(c - wanted), c), default=wanted)
        val += order[:cut]
    chosen = set(val)
    return [i for i in range(len(labels)) if i not in chosen], sorted(val)


def stratified_sample(labels: Sequence[int], ids: Sequence[str], *, n: int, seed: int) -> list[int]:
    """Ascending indices of `n` images, with every class in proportion and at least one of each.

    Raises:
        DataError: there are more classes than `n`.
    """
    classes = _by_class(labels)
    if n >= len(labels):
        return list(range(len(labels)))
    if n < len(classes):
        raise DataError(
            f"A part of {n} images cannot hold {len(classes)} classes.",
            fix="Raise the limit on the number of images.",
        )
    shares = {label: n * len(members) / len(labels) for label, members in classes.items()}
    counts = {label: max(int(share), 1) for label, share in shares.items()}
    while sum(counts.values()) < n:  # the classes that lost most by rounding gain first
        counts[max(counts, key=lambda label: (shares[label] - counts[label], -label))] += 1
    while sum(counts.values()) > n:  # small classes were raised to one image: the large ones pay
        several = [label for label in counts if counts[label] > 1]
        counts[max(several, key=lambda label: (counts[label] - shares[label], -label))] -= 1
    chosen: list[int] = []
    for label, members in classes.items():
        order = sorted(members, key=lambda i: (_hash(seed, "sample", ids[i]), i))
        chosen += order[: counts[label]]
    return sorted(chosen)


def balanced_sample(labels: Sequence[int], ids: Sequence[str], *, n: int, seed: int) -> list[int]:
    """Indices of `n` images, or all there are, spread as evenly over the classes as they allow.

    Each class gives one image in turn, and they come in that order, so that any part of them is spread
    too. With more classes than images the seed chooses the classes.
    """
    places: list[tuple[int, bytes, int]] = []  # round, class in the seed's order, image
    for label, members in _by_class(labels).items():
        order = sorted(members, key=lambda i: (_hash(seed, "balanced", ids[i]), i))
        turn = _hash(seed, "class", str(label))
        places += [(position, turn, index) for position, index in enumerate(order)]
    return [index for *_, index in sorted(places)[:n]]


def _by_class(labels: Sequence[int]) -> dict[int, list[int]]:
    members: defaultdict[int, list[int]] = defaultdict(list)
    for i, label in enumerate(labels):
        members[label].append(i)
    return dict(sorted(members.items()))


def _hash(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
