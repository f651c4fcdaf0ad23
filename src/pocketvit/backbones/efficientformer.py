"""EfficientFormer and EfficientFormerV2 (Li et al. 2022, 2023) for images of any size.

Papers: https://arxiv.org/abs/2206.01191 (section 4), https://arxiv.org/abs/2212.08059 (section 3). The
networks are timm's, and so are all parameter names. What ties them to images of 224 px is replaced here: the
attention, whose position biases are now interpolated to the actual map (see `position_biases`), and in the
first version the blocks on tokens, which forget the map's height and width. At 224 px the result is timm's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import timm
from timm.layers.drop import DropPath
from timm.models import efficientformer as timm_v1
from timm.models import efficientformer_v2 as timm_v2
from torch import Tensor, nn

from pocketvit.backbones.base import Backbone, Level
from pocketvit.backbones.options import DEFAULTS, BuildOptions
from pocketvit.backbones.position_biases import BiasedAttention
from pocketvit.core.errors import ConfigError

__all__ = ["EfficientFormer", "EfficientFormerV2", "build"]


class _TwoClassifiers(Backbone):
    """What both versions share: a stem, four stages, a norm and two classifiers; see `Backbone`.

    The second classifier is for a teacher's labels; the mean of both is returned, in training too, unless
    `distilled_training` is set: then training returns both.
    """

    classifiers = ("head", "head_dist")
    block_patterns = ((r"^stages\.(\d+)", None), (r"^norm", (99999,)))

    def __init__(self, network: timm_v1.EfficientFormer | timm_v2.EfficientFormerV2) -> None:
        levels: list[dict[str, Any]] = network.feature_info
        super().__init__(
            num_classes=network.num_classes,
            in_chans=network.in_chans,
            widths=[level["num_chs"] for level in levels],
            level_names=[level["module"] for level in levels],
        )
        self.distilled_training = False
        self.stem = network.stem
        self.stages = network.stages
        self.norm: nn.Module = network.norm
        self.head = network.head
        self.head_dist = cast(nn.Module, network.head_dist)
        _allow_stochastic_depth(self.stages)

    def levels(self) -> tuple[Level, Level, Level, Level]:
        """See `Backbone`."""
        first, second, third, fourth = self.stages
        return (self.stem, first), (second,), (third,), (fourth,)

    def classify(self, x: Tensor) -> Any:
        """See `Backbone`."""
        logits, distilled = self.head(x), self.head_dist(x)
        if self.distilled_training and self.training:
            return logits, distilled
        return (logits + distilled) / 2

    def set_distilled_training(self, enable: bool = True) -> None:
        """Whether training returns the logits of both classifiers instead of their mean."""
        self.distilled_training = enable

    def no_weight_decay(self) -> set[str]:
        """The position biases."""
        return {name for name, _ in self.named_parameters() if name.endswith("attention_biases")}


class EfficientFormer(_TwoClassifiers):
    """EfficientFormer; see `Backbone` for the interface.

    Args:
        network: timm's, whose modules become this network's own.
    """

    def __init__(self, network: timm_v1.EfficientFormer) -> None:
        super().__init__(network)
        blocks = cast(nn.Sequential, self.stages.get_submodule("3.blocks"))
        for index, block in enumerate(blocks):
            if isinstance(block, timm_v1.MetaBlock1d):
                blocks[index] = TokenBlock(block)
            elif isinstance(block, timm_v1.Flat):
                blocks[index] = nn.Identity()  # its place counts in the names of the parameters
                # from the last convolutions, in L7 those of the downsampling, to the first attention
                last = f"blocks.{index - 1}.mlp" if index else "downsample"
                self.bridge_blocks = ((f"stages.3.{last}", f"stages.3.blocks.{index + 1}.token_mixer.qkv"),)

    def normalise(self, x: Tensor) -> Tensor:
        """See `Backbone`: layer normalisation of each position."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EfficientFormerV2(_TwoClassifiers):
    """EfficientFormerV2; see `Backbone` for the interface.

    Args:
        network: timm's, whose modules become this network's own.
    """

    def __init__(self, network: timm_v2.EfficientFormerV2) -> None:
        super().__init__(network)
        for module in list(self.stages.modules()):
            if isinstance(module, timm_v2.EfficientFormerV2Block) and module.token_mixer is not None:
                module.add_module("token_mixer", MapAttention(module.token_mixer))
            elif isinstance(module, timm_v2.Downsample) and module.attn is not None:
                module.add_module("attn", DownsamplingAttention(module.attn))
        self.bridge_blocks = tuple(_bridge(f"stages.{index}", self.stages[index]) for index in (2, 3))

    def normalise(self, x: Tensor) -> Tensor:
        """See `Backbone`."""
        return self.norm(x)


class TokenBlock(nn.Module):
    """Attention and MLP on the positions of a map.

    Each after a layer normalisation, scaled by γ and with a skip::

        Y = X + γ₁ · attention(LN(X)),  Z = Y + γ₂ · MLP(LN(Y))

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, block: timm_v1.MetaBlock1d) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.token_mixer = TokenAttention(block.token_mixer)
        self.mlp = block.mlp
        self.ls1, self.ls2 = block.ls1, block.ls2
        self.drop_path1, self.drop_path2 = block.drop_path1, block.drop_path2

    def forward(self, x: Tensor) -> Tensor:
        """Map to tokens, both branches, and back."""
        _, _, H, W = x.shape
        x = x.flatten(2).transpose(1, 2)
        x = x + self.drop_path1(self.ls1(self.token_mixer(self.norm1(x), (H, W))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.transpose(1, 2).unflatten(2, (H, W))


class TokenAttention(BiasedAttention):
    """Softmax attention with position biases.

    With the biases P, for each head with keys of width d::

        softmax(Q Kᵀ / sqrt(d) + P) V

    Shape:
        `(B, H W, C)` to the same.
    """

    def __init__(self, attention: timm_v1.Attention) -> None:
        super().__init__(attention.attention_biases, (7, 7))  # 224 px at stride 32
        # no longer needed, but one of the names in the published weights
        self.register_buffer("attention_bias_idxs", cast(Tensor, attention.attention_bias_idxs))
        self.heads, self.scale = attention.num_heads, attention.scale
        self.widths = [attention.key_dim, attention.key_dim, attention.val_dim]
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Attend between the tokens of a map of this `size`."""
        heads = self.qkv(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        q, k, v = heads.split(self.widths, dim=3)  # (B, heads, N, d) each
        scores = (q @ k.transpose(2, 3)) * self.scale + self.biases(size)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))


class MapAttention(BiasedAttention):
    """Attention whose heads talk, beside a depthwise convolution of its values (section 3.2 of the paper).

    With position biases P and T₁, T₂ mixing the heads (Shazeer et al. 2020)::

        Y   = T₂ softmax(T₁(Q Kᵀ / sqrt(d) + P)) V + depthwise(V)
        out = W_o GELU(Y)

    At stride 16 all this happens on half the size: a depthwise convolution of stride 2 before, bilinear
    enlargement to twice the size after Y. For an odd map that is a row or column too many, which is cut off:
    all others are the same mixture of their neighbours as on an even map.

    Shape:
        `(B, C, H, W)` to the same.
    """

    def __init__(self, attention: timm_v2.Attention2d) -> None:
        super().__init__(attention.attention_biases, cast(tuple[int, int], attention.resolution))
        self.heads, self.scale = attention.num_heads, attention.scale
        self.stride_conv: nn.Module = attention.stride_conv or nn.Identity()
        self.upsample: nn.Module = attention.upsample or nn.Identity()
        self.q, self.k, self.v = attention.q, attention.k, attention.v
        self.v_local = attention.v_local
        self.talking_head1, self.talking_head2 = attention.talking_head1, attention.talking_head2
        self.act, self.proj = attention.act, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """Attend between all positions of the map, or of half of it."""
        _, _, H, W = x.shape
        x = self.stride_conv(x)
        value = self.v(x)
        q, k, v = (_split_heads(each, self.heads) for each in (self.q(x), self.k(x), value))
        scores = (q.transpose(2, 3) @ k) * self.scale + self.biases((x.shape[2], x.shape[3]))
        weights = self.talking_head2(self.talking_head1(scores).softmax(dim=-1))
        read = (weights @ v.transpose(2, 3)).transpose(2, 3).reshape(value.shape)
        y = self.upsample(read + self.v_local(value))[..., :H, :W]
        return self.proj(self.act(y))


class DownsamplingAttention(BiasedAttention):
    """Attention from every second row and column to all positions, as wide as the next stage.

    With position biases P::

        Y   = softmax(Q Kᵀ / sqrt(d) + P) V + depthwise(V), of stride 2
        out = W_o GELU(Y)

    Shape:
        `(B, C, H, W)` to `(B, C', ceil(H / 2), ceil(W / 2))`.
    """

    def __init__(self, attention: timm_v2.Attention2dDownsample) -> None:
        super().__init__(
            attention.attention_biases, cast(tuple[int, int], attention.resolution), query_stride=2
        )
        self.heads, self.scale = attention.num_heads, attention.scale
        self.q, self.k, self.v = attention.q, attention.k, attention.v
        self.v_local = attention.v_local
        self.act, self.proj = attention.act, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """Attend, to half the size."""
        value = self.v(x)
        local = self.v_local(value)
        q, k, v = (_split_heads(each, self.heads) for each in (self.q(x), self.k(x), value))
        scores = (q.transpose(2, 3) @ k) * self.scale + self.biases((x.shape[2], x.shape[3]))
        read = (scores.softmax(dim=-1) @ v.transpose(2, 3)).transpose(2, 3).reshape(local.shape)
        return self.proj(self.act(read + local))


def _bridge(name: str, stage: nn.Module) -> tuple[str, str]:
    """The last convolution before a stage's first attention, and the convolutions that this begins with."""
    blocks = cast(nn.Sequential, stage.get_submodule("blocks"))
    first = next(index for index, block in enumerate(blocks) if isinstance(block.token_mixer, MapAttention))
    return f"{name}.blocks.{first - 1}.mlp.fc2", f"{name}.blocks.{first}.token_mixer.[qkv].*"


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """`(B, heads d, H, W)` to `(B, heads, d, H W)`."""
    return x.flatten(2).unflatten(1, (heads, -1))


def _allow_stochastic_depth(stages: nn.Module) -> None:
    """Put a drop path where timm leaves it out because its rate is 0, so that `set_drop_path` finds all."""
    for module in list(stages.modules()):
        for name, child in list(module.named_children()):
            if name.startswith("drop_path") and isinstance(child, nn.Identity):
                setattr(module, name, DropPath())


def build(name: str, options: BuildOptions = DEFAULTS) -> Callable[[int, int], Backbone]:
    """What makes the network that timm calls `name` from (number of classes, input channels).

    Raises:
        ConfigError: another output stride than 32, for which neither paper nor official code has a rule.
    """
    if options.output_stride != DEFAULTS.output_stride:
        raise ConfigError(
            f"'{name}' cannot have an output stride of {options.output_stride}.",
            fix="Leave it at 32, or choose a family without position biases.",
        )
    return partial(_build, name)


def _build(name: str, num_classes: int, in_chans: int) -> Backbone:
    network: Any = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)
    return (EfficientFormerV2 if "v2" in name else EfficientFormer)(network)
