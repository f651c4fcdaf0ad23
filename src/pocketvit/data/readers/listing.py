"""What every reader hands over."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvit.data.splits import ImageSplit, Problem

__all__ = ["Listing"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Labelled images as they are stored: not looked at, not split unless the source is."""

    name: str
    classes: tuple[str, ...]
    train: ImageSplit
    """The training part; every image when `val` is None."""
    val: ImageSplit | None
    rule: str = ""
    """How the source is split, when it is."""
    problems: tuple[Problem, ...] = ()
    """What could be told without opening an image, such as a class folder without images."""
    ignored: tuple[str, ...] = ()
    """Files that are passed over, because of their name or because they lie outside the class folders."""

    @property
    def parts(self) -> tuple[ImageSplit, ...]:
        """`train`, and `val` if there is one."""
        return (self.train,) if self.val is None else (self.train, self.val)
