"""Token mixers, one file a paper: modules that map `(B, C, H, W)` to `(B, C, H, W)`."""

from pocketvit.mixers.additive import EfficientAdditiveAttention
from pocketvit.mixers.convolutional import ConvolutionalAdditiveMixer
from pocketvit.mixers.patchwise import PatchwiseMixer
from pocketvit.mixers.registry import MixerFactory, get_mixer, list_mixers, register_mixer
from pocketvit.mixers.separable import SeparableSelfAttention
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = [
    "ConvolutionalAdditiveMixer",
    "EfficientAdditiveAttention",
    "MixerFactory",
    "PatchwiseMixer",
    "SeparableSelfAttention",
    "SoftmaxAttention",
    "get_mixer",
    "list_mixers",
    "register_mixer",
]
