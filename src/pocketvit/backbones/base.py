"""What every backbone of this library can do: timm's model interface over four levels of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from timm.layers.drop import DropPath
from timm.models._features import feature_take_indices
from torch import Tensor, nn

__all__ = ["Backbone", "Level"]

Level = tuple[nn.Module, ...]
"""Modules that run one after the other between two strides."""


class Backbone(nn.Module, ABC):
    """A network in four levels of strides 4, 8, 16 and 32, and a linear classifier on the pooled last one.

    Subclasses name their modules as timm (or the official repository) does, so that published weights load
    unchanged, and say in `levels` how the modules follow each other.

    Args:
        num_classes: outputs of the classifier; 0 leaves it out.
        in_chans: channels of the input image.
        widths: channels of the four levels.
        level_names: module whose output each level is.

    Attributes:
        classifiers: names of the linear classifiers; their logits are averaged.
        feature_info: for each level its channels, stride and module, as timm has it.
    """

    classifiers: tuple[str, ...] = ("head",)

    def __init__(
        self, *, num_classes: int, in_chans: int, widths: Sequence[int], level_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = widths[-1]
        self.global_pool = "avg"
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": 2 ** (index + 2), "module": name}
            for index, (width, name) in enumerate(zip(widths, level_names, strict=True))
        ]

    @abstractmethod
    def levels(self) -> tuple[Level, Level, Level, Level]:
        """The modules of the levels with strides 4, 8, 16 and 32, in the order they run."""

    def normalise(self, x: Tensor) -> Tensor:
        """What stands between the last level and the pooling: nothing, unless a family says otherwise."""
        return x

    def forward(self, x: Tensor) -> Any:
        """Logits `(B, num_classes)` of images `(B, in_chans, H, W)`."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised last level, `(B, num_features, H/32, W/32)`."""
        for level in self.levels():
            x = _run(level, x)
        return self.normalise(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Pool and classify what `forward_features` returned; `pre_logits` stops before the classifier."""
        x = x.mean(dim=(2, 3)) if self.global_pool else x
        return x if pre_logits else self.classify(x)

    def classify(self, x: Tensor) -> Any:
        """Logits of pooled features `(B, num_features)`."""
        return self.get_submodule(self.classifiers[0])(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Features of chosen levels, as timm's method of this name.

        Args:
            x: images `(B, in_chans, H, W)`.
            indices: the last n levels if a number, all if `None`.
            norm: normalise the last level as `forward_features` does.
            stop_early: do not run levels after the last chosen one.
            output_fmt: only `"NCHW"`.
            intermediates_only: return the list alone.

        Returns:
            The list, or (the final features, the list).
        """
        if output_fmt != "NCHW":
            raise ValueError(f"Features are NCHW; '{output_fmt}' is not supported.")
        levels = self.levels()
        chosen, last_chosen = feature_take_indices(len(levels), indices)
        last = len(levels) - 1
        features: list[Tensor] = []
        for index, level in enumerate(levels[: last_chosen + 1] if stop_early else levels):
            x = _run(level, x)
            if index in chosen:
                features.append(self.normalise(x) if norm and index == last else x)
        if intermediates_only:
            return features
        reached_end = not stop_early or last_chosen == last
        return (self.normalise(x) if reached_end else x), features

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the classifier (and its norm) when only features are wanted; every level is kept.

        Returns:
            The chosen levels, counted from 0.
        """
        chosen, _ = feature_take_indices(len(self.levels()), indices)
        if prune_norm and "norm" in self._modules:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return chosen

    def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]:
        """The linear classifier; a tuple of them for families with several."""
        first, *others = (self.get_submodule(name) for name in self.classifiers)
        return (first, *others) if others else first

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put fresh classifiers in place; 0 classes leaves them out; `global_pool` is `"avg"` or `""`."""
        if global_pool is not None:
            if global_pool not in ("", "avg"):
                raise ValueError(f"Pooling is 'avg' or '' (none), not '{global_pool}'.")
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = next(self.parameters())
        for name in self.classifiers:
            fresh = make_classifier(self.num_features, num_classes).to(device=like.device, dtype=like.dtype)
            parent, _, attribute = name.rpartition(".")
            setattr(self.get_submodule(parent), attribute, fresh.train(self.training))

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth that grows linearly over the blocks from 0 to `rate` (Huang et al. 2016)."""
        drops = [module for module in self.modules() if isinstance(module, DropPath)]
        for index, drop in enumerate(drops):
            drop.drop_prob = rate * index / max(len(drops) - 1, 1)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should skip beyond biases and norms: none."""
        return set()


def make_classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer, or the identity for 0 classes."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()


def _run(level: Level, x: Tensor) -> Tensor:
    for module in level:
        x = module(x)
    return x
