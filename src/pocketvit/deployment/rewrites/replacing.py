"""Rewrites that put a module made for inference in the place of each trained one."""

from __future__ import annotations

from torch import nn

from pocketvit.backbones.mobilevit import MobileViTBlock
from pocketvit.backbones.mobilevitv2 import MobileViTV2Block
from pocketvit.deployment.dataflow import Flow
from pocketvit.deployment.inference_modules import (
    MapNorm,
    MergedAdditiveAttention,
    SplitConvolutionalMixer,
    SplitSoftmaxAttention,
    TokenMobileViTBlock,
    UnfoldFreeBlock,
)
from pocketvit.deployment.rewrites.surgery import replace_each
from pocketvit.mixers.additive import EfficientAdditiveAttention
from pocketvit.mixers.convolutional import ConvolutionalAdditiveMixer
from pocketvit.mixers.softmax import SoftmaxAttention

__all__ = [
    "map_separable_attention",
    "merge_additive_attention",
    "plain_group_norm",
    "split_convolutional_mixer",
    "split_softmax_attention",
    "unfold_tokens",
]


def plain_group_norm(model: nn.Module, flow: Flow) -> list[str]:
    """Group normalisation of one group without scale and shift as one operator: see `MapNorm`."""
    del flow
    return replace_each(
        model, nn.GroupNorm, MapNorm, fits=lambda norm: norm.num_groups == 1 and norm.weight is None
    )


def map_separable_attention(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViTv2 without unfolding, with the key once a set: see `UnfoldFreeBlock`."""
    del flow
    return replace_each(model, MobileViTV2Block, UnfoldFreeBlock)


def unfold_tokens(model: nn.Module, flow: Flow) -> list[str]:
    """MobileViT unfolds whole rows of channels, into one matrix: see `TokenMobileViTBlock`."""
    del flow
    return replace_each(model, MobileViTBlock, TokenMobileViTBlock)


def split_softmax_attention(model: nn.Module, flow: Flow) -> list[str]:
    """Softmax attention with fewer biases, its parts computed apart: see `SplitSoftmaxAttention`."""
    del flow
    return replace_each(model, SoftmaxAttention, SplitSoftmaxAttention)


def merge_additive_attention(model: nn.Module, flow: Flow) -> list[str]:
    """SwiftFormer's `final` after `proj` is one map: see `MergedAdditiveAttention`."""
    del flow
    return replace_each(model, EfficientAdditiveAttention, MergedAdditiveAttention)


def split_convolutional_mixer(model: nn.Module, flow: Flow) -> list[str]:
    """CAS-ViT: query, key and value without copying parts: see `SplitConvolutionalMixer`."""
    del flow
    return replace_each(model, ConvolutionalAdditiveMixer, SplitConvolutionalMixer)
