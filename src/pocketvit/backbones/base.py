"""What every backbone of this library can do: timm's model interface over four levels of features."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
from timm.layers.drop import DropPath
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pocketvit.core.errors import DataError

__all__ = ["MIN_SIZE", "Backbone", "Level"]

MIN_SIZE = 32
"""Least height and width of an input image, pixels: one position at stride 32."""

Level = tuple[nn.Module, ...]
"""Modules that run one after the other between two strides."""


class Backbone(nn.Module, ABC):
    """A network in four levels of strides 4, 8, 16 and 32, and a linear classifier on the pooled last one.

    Images may have any height and width from 32 px; the level of stride s is ceil(H / s) × ceil(W / s).

    Subclasses name their modules as timm (or the official repository) does, so that published weights load
    unchanged, and say in `levels` how the modules follow each other.

    Args:
        num_classes: outputs of the classifier; 0 leaves it out.
        in_chans: channels of the input image.
        widths: channels of the four levels.
        level_names: module whose output each level is.
        output_stride: stride at which the network stops downsampling; deeper levels have it too.

    Attributes:
        classifiers: names of the linear classifiers; their logits are averaged.
        bridge_blocks: where convolutions hand over to attention: for each place the names of the modules
            that do it, with wildcards where rewriting for inference renames them. Q-HyViT scores these by
            what comes out of the block.
        block_patterns: for `group_matcher`, regular expressions of parameter names and what timm adds to
            their numbers; none means one group a module of `levels`.
        feature_info: for each level its channels, stride and module, as timm has it.
    """

    classifiers: tuple[str, ...] = ("head",)
    bridge_blocks: tuple[tuple[str, ...], ...] = ()
    block_patterns: tuple[tuple[str, tuple[int, ...] | None], ...] = ()

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        widths: Sequence[int],
        level_names: Sequence[str],
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = widths[-1]
        self.global_pool = "avg"
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": min(2 ** (index + 2), output_stride), "module": name}
            for index, (width, name) in enumerate(zip(widths, level_names, strict=True))
        ]

    @abstractmethod
    def levels(self) -> tuple[Level, Level, Level, Level]:
        """The modules of the levels with strides 4, 8, 16 and 32, in the order they run."""

    def normalise(self, x: Tensor) -> Tensor:
        """What stands between the last level and the pooling: nothing, unless a family says otherwise."""
        return x

    def forward(self, x: Tensor) -> Any:
        """Logits `(B, num_classes)` of images `(B, in_chans, H, W)`.

        Raises:
            DataError: the images have other channels than the network, or a side below 32 px.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised last level, `(B, num_features, ceil(H / 32), ceil(W / 32))`."""
        check_images(x, self.in_chans)
        for level in self.levels():
            x = self._run(level, x)
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
        check_images(x, self.in_chans)
        levels = self.levels()
        chosen, last_chosen = feature_take_indices(len(levels), indices)
        last = len(levels) - 1
        features: list[Tensor] = []
        for index, level in enumerate(levels[: last_chosen + 1] if stop_early else levels):
            x = self._run(level, x)
            if index in chosen:
                features.append(self.normalise(x) if norm and index == last else x)
        if intermediates_only:
            return features
        reached_end = not stop_early or last_chosen == last
        return (self.normalise(x) if reached_end else x), features

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what features of the chosen levels do not need: deeper levels, the norm, the classifier.

        Returns:
            The chosen levels, counted from 0.
        """
        levels = self.levels()
        chosen, last_chosen = feature_take_indices(len(levels), indices)
        names = {module: name for name, module in self.named_modules()}
        for module in (module for level in levels[last_chosen + 1 :] for module in level):
            parent, _, attribute = names[module].rpartition(".")
            setattr(self.get_submodule(parent), attribute, nn.Identity())
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

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only what lies between the modules of `levels` for the backward pass, compute the rest again.

        Less memory for about a third more time in training.
        """
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay should skip beyond biases and norms: none."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters belong together from the stem on, for timm's learning rates that decay by layer.

        Args:
            coarse: one group a module of `levels` instead of one a block.
        """
        names = {module: name for name, module in self.named_modules()}
        stem, *modules = (f"^{re.escape(names[module])}\\." for level in self.levels() for module in level)
        by_module = [(pattern, (index,)) for index, pattern in enumerate(modules)]
        return {"stem": stem, "blocks": by_module if coarse else list(self.block_patterns) or by_module}

    def _run(self, level: Level, x: Any) -> Any:
        for module in level:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(module, x, use_reentrant=False)
            else:
                x = module(x)
        return x


@torch.fx.wrap  # a symbolic trace keeps it as one call instead of looking inside
def check_images(x: Tensor, in_chans: int) -> None:
    """Refuse what a network for `in_chans` channels cannot take; says nothing while it is being traced.

    Raises:
        DataError: not `(B, in_chans, H, W)`, or a side below 32 px.
    """
    if torch.compiler.is_compiling():  # or exporting
        return
    if x.ndim != 4:
        raise DataError(f"The network wants images (B, C, H, W), not a tensor of shape {tuple(x.shape)}.")
    _, channels, height, width = x.shape
    if channels != in_chans:
        raise DataError(
            f"The images have {_channels(channels)}, the network is built for {in_chans}.",
            fix=f"Build it with in_chans={channels}, or convert the images.",
        )
    if min(height, width) < MIN_SIZE:
        raise DataError(
            f"The images are {height}×{width} px, the least is {MIN_SIZE}×{MIN_SIZE} px.",
            fix="Resize or pad them.",
        )


def _channels(count: int) -> str:
    return f"{count} channel" if count == 1 else f"{count} channels"


def make_classifier(num_features: int, num_classes: int) -> nn.Module:
    """A linear layer, or the identity for 0 classes."""
    return nn.Linear(num_features, num_classes) if num_classes else nn.Identity()
