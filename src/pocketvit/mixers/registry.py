"""Token mixers by name: what `create_model(..., mixer=NAME)` puts in place of a network's own."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pocketvit.core.errors import ConfigError
from pocketvit.core.names import unknown_name
from pocketvit.mixers.additive import EfficientAdditiveAttention
from pocketvit.mixers.convolutional import ConvolutionalAdditiveMixer
from pocketvit.mixers.separable import SeparableSelfAttention
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = ["MixerFactory", "get_mixer", "list_mixers", "register_mixer"]

MixerFactory = Callable[[int], nn.Module]
"""Makes a mixer of feature maps `(B, dim, H, W)`, to the same shape, from the number `dim` of channels."""


def _separable(dim: int) -> nn.Module:
    return SeparableSelfAttention(dim=dim)


def _additive(dim: int) -> nn.Module:
    return EfficientAdditiveAttention(dim=dim)


def _convolutional(dim: int) -> nn.Module:
    return ConvolutionalAdditiveMixer(dim=dim)


def _softmax(dim: int) -> nn.Module:
    return SoftmaxAttention(dim=dim)


_factories: dict[str, MixerFactory] = {
    "separable": _separable,
    "additive": _additive,
    "convolutional": _convolutional,
    "softmax": _softmax,
}


def list_mixers() -> list[str]:
    """Names of the mixers, those of the papers first."""
    return list(_factories)


def get_mixer(name: str) -> MixerFactory:
    """What makes the mixer of this name.

    Raises:
        UnknownNameError: there is none; says the nearest names.
    """
    if name not in _factories:
        raise unknown_name("mixer", name, _factories, see=f"There are: {', '.join(_factories)}.")
    return _factories[name]


def register_mixer(name: str, factory: MixerFactory) -> None:
    """Give a mixer of your own a name, so that networks with it can be saved and loaded.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _factories:
        raise ConfigError(f"There is a mixer named '{name}' already.", fix="Choose another name.")
    _factories[name] = factory
