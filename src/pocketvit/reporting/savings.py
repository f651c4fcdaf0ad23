"""What the exact rewrites at export saved, in words for someone who has never exported a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pocketvit.reporting.format import count, percent

__all__ = ["WORDS", "Saving", "Savings", "savings"]

WORDS = {
    "fold_separable_norms": "Scale and shift of a normalisation moved into the layers after it",
    "plain_group_norm": "A normalisation left without scale and shift run as one operation",
    "map_separable_attention": "Attention that reads pixels where they lie, its key computed once for all",
    "fold_transformer_norms": "Scale and shift of a normalisation moved into the layer after it",
    "unfold_tokens": "Pixels gathered for attention in whole rows",
    "split_softmax_attention": "Query, key and value of attention computed apart, with fewer biases",
    "merge_additive_attention": "Two layers in a row inside attention multiplied into one",
    "split_convolutional_mixer": "Query, key and value computed apart instead of cut apart afterwards",
    "fold_norm_after": "A normalisation merged into the layer before it",
    "fold_norm_before": "A normalisation merged into the layers after it",
    "fold_layer_scale": "Learned factors merged into the layer before them",
    "compose_linear_maps": "Two layers in a row multiplied into one",
    "average_classifiers": "Two classifiers whose mean is the answer made into one",
}
"""Each rewrite of `pocketvit.deployment.rewrites` in plain words."""

_COSTS = {
    "params": "parameters",
    "macs": "multiply-accumulates",
    "activations": "numbers written to memory on the way",
}


@dataclass(frozen=True, kw_only=True)
class Saving:
    """A row: the rewrite in words, how many places it changed, and what it saved, by cost, as text."""

    words: str
    places: int
    saved: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Savings:
    """The rows between `before`, the costs of the trained network, and `after`, those of the file."""

    sentence: str
    before: tuple[int, ...]
    rows: tuple[Saving, ...]
    after: tuple[int, ...]


def savings(export: dict[str, Any] | None) -> Savings | None:
    """What was merged on the way into the file; `None` where nothing was, or no cost is recorded.

    Args:
        export: as in export.json.
    """
    if not export or not export.get("rewrites") or "cost_before_rewrites" not in export:
        return None
    rewrites = export["rewrites"]
    before = tuple(export["cost_before_rewrites"][cost] for cost in _COSTS)
    saved = [tuple(rewrite[f"{cost}_saved"] for cost in _COSTS) for rewrite in rewrites]
    after = tuple(start - sum(each) for start, *each in zip(before, *saved, strict=True))
    return Savings(
        sentence=_sentence(before, after),
        before=before,
        rows=tuple(
            Saving(
                words=_words(rewrite["name"]),
                places=rewrite["places"],
                saved=tuple(_change(number) for number in numbers),
            )
            for rewrite, numbers in zip(rewrites, saved, strict=True)
        ),
        after=after,
    )


def _words(name: str) -> str:
    return WORDS.get(name, name.replace("_", " "))


def _sentence(before: tuple[int, ...], after: tuple[int, ...]) -> str:
    """`0.9% fewer parameters (1.11 M before, 1.10 M in the file)`, for each cost that changed."""
    changes = [
        f"{percent(abs(new - old) / old)} {'fewer' if new < old else 'more'} {name} "
        f"({count(old)} before, {count(new)} in the file)"
        for old, new, name in zip(before, after, _COSTS.values(), strict=True)
        if new != old
    ]
    told = f": {', '.join(changes[:-1])}{' and ' if changes[:-1] else ''}{changes[-1]}" if changes else ""
    return (
        "On the way into the file, steps of the network were merged by algebra that leaves its answers as "
        f"they are, so that each picture takes less work{told}."
    )


def _change(saved: int) -> str:
    return "" if not saved else f"{'−' if saved > 0 else '+'}{count(abs(saved))}"
