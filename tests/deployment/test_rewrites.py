from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocketvit.backbones import create_model
from pocketvit.backbones.cas_vit import CASViT, CASViTSpec
from pocketvit.backbones.complexity import measure_complexity
from pocketvit.backbones.mobilevit import MobileViT, MobileViTSpec
from pocketvit.backbones.mobilevitv2 import MobileViTV2, MobileViTV2Spec
from pocketvit.backbones.swiftformer import SwiftFormer, SwiftFormerSpec
from pocketvit.core.errors import ExportError, UnknownNameError
from pocketvit.deployment import ExportedClassifier, export_onnx, rewrite_for_inference
from pocketvit.deployment.dataflow import trace_flow
from pocketvit.deployment.rewrites import REWRITES, Rewrite
from pocketvit.mixers.softmax import SoftmaxAttention
from pocketvit.tasks import ModelCard

SMALL: dict[str, Callable[[], nn.Module]] = {
    "mobilevit": lambda: MobileViT(
        MobileViTSpec(
            widths=(16, 16, 24, 24, 32), dims=(16, 24, 32), features=40, expansion=2, depths=(1, 1, 2)
        ),
        num_classes=7,
    ),
    "mobilevitv2": lambda: MobileViTV2(MobileViTV2Spec(width=0.25, depths=(1, 2, 1)), num_classes=7),
    "swiftformer": lambda: SwiftFormer(
        SwiftFormerSpec(widths=(16, 24, 32, 40), depths=(2, 1, 2, 2)), num_classes=7
    ),
    "cas_vit": lambda: CASViT(CASViTSpec(widths=(16, 24, 32, 40), depths=(1, 1, 2, 1)), num_classes=7),
}
APPLIES = {
    "mobilevit": {
        "fold_transformer_norms",
        "unfold_tokens",
        "split_softmax_attention",
        "fold_norm_after",
    },
    "mobilevitv2": {
        "fold_separable_norms",
        "plain_group_norm",
        "map_separable_attention",
        "fold_norm_after",
        "compose_linear_maps",
    },
    "swiftformer": {
        "merge_additive_attention",
        "fold_norm_after",
        "fold_norm_before",
        "fold_layer_scale",
        "average_classifiers",
    },
    "cas_vit": {"split_convolutional_mixer", "fold_norm_after", "fold_norm_before"},
}
NEEDS = {  # rewrites that only find something after another one
    "plain_group_norm": ["fold_separable_norms"],
    "compose_linear_maps": ["map_separable_attention", "fold_norm_after"],
}


def settled(model: nn.Module, gain: float = 1.0) -> nn.Module:
    """Double precision, every number random: weights, factors, shifts, statistics."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.is_floating_point():
            fan_in = max(tensor[0].numel(), 1) if tensor.dim() > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(gain * noise / math.sqrt(fan_in) if tensor.dim() > 1 else 1 + 0.3 * noise)
    return model


def agree(model: nn.Module, rewritten: nn.Module, size: int, batch: int = 2, chans: int = 3) -> None:
    images = torch.randn(
        batch, chans, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected, found = model(images), rewritten(images)
    scale = expected.abs().max().clamp(min=1)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-9)
    assert expected.std(dim=0).max() > 1e-6  # the images make a difference


@dataclass(frozen=True)
class Done:
    """A network before, and what was made of it."""

    model: nn.Module
    before: dict[str, Tensor]
    rewritten: nn.Module
    rewrites: list[Rewrite]


@lru_cache(maxsize=1)
def done(family: str) -> Done:
    """A family's small network, in training mode, rewritten for 64 px."""
    model = settled(SMALL[family]()).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    return Done(model, before, *rewrite_for_inference(model, size=64))


# The scope brings all tests of a family together: its network is rewritten once.
each_family = pytest.mark.parametrize("family", SMALL, scope="module")


@each_family
def test_the_network_itself_stays(family: str) -> None:
    model = done(family).model
    assert model.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, done(family).before[key])


@each_family
def test_all_together_are_exact(family: str) -> None:
    assert {rewrite.name for rewrite in done(family).rewrites} == APPLIES[family]
    agree(copy.deepcopy(done(family).model).eval(), done(family).rewritten, 64)


@each_family
def test_they_are_exact_at_an_odd_size(family: str) -> None:
    model = settled(SMALL[family]())
    rewritten, rewrites = rewrite_for_inference(model, size=71)
    assert {rewrite.name for rewrite in rewrites} == APPLIES[family]
    agree(model, rewritten, 71)


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, names in APPLIES.items() for n in sorted(names)])
def test_each_alone_is_exact(family: str, name: str) -> None:
    model = settled(SMALL[family]())
    rewritten, rewrites = rewrite_for_inference(model, size=64, names=[*NEEDS.get(name, ()), name])
    assert rewrites[-1].name == name
    assert rewrites[-1].places
    agree(model, rewritten, 64)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilevit_xxs", 256),
        ("mobilevitv2_050", 224),
        ("swiftformer_xs", 224),
        ("cas_vit_xs", 224),
        ("timm/efficientformer_l1", 224),
        ("timm/efficientformerv2_s0", 224),
        ("timm/mobilenetv3_small_100", 64),
    ],
)
def test_real_networks(name: str, size: int, shallow) -> None:
    # CAS-ViT's blocks are cubic: activations overflow where weights do not shrink them
    model = shallow(create_model(name, num_classes=10), size)
    model = settled(model, gain=0.5 if name == "cas_vit_xs" else 1.0)
    rewritten, rewrites = rewrite_for_inference(model, size=size)
    agree(model, rewritten, size)
    assert "fold_norm_after" in {rewrite.name for rewrite in rewrites}
    if "efficientformer" in name:
        assert {"fold_layer_scale", "average_classifiers"} <= {rewrite.name for rewrite in rewrites}


@each_family
def test_what_was_saved_is_what_is_gone(family: str) -> None:
    model = copy.deepcopy(done(family).model).eval()
    rewritten, rewrites = done(family).rewritten, done(family).rewrites
    before, after = measure_complexity(model, 64), measure_complexity(rewritten, 64)
    assert sum(rewrite.params_saved for rewrite in rewrites) == before.params - after.params
    assert sum(rewrite.macs_saved for rewrite in rewrites) == before.macs - after.macs
    elements = [trace_flow(network, size=64).elements for network in (model, rewritten)]
    assert sum(rewrite.activations_saved for rewrite in rewrites) == elements[0] - elements[1]
    assert before.params > after.params


@each_family
def test_a_second_time_finds_nothing(family: str) -> None:
    _, again = rewrite_for_inference(done(family).rewritten, size=64)
    assert not again


def test_exports_and_matches(card: ModelCard, tmp_path: Path) -> None:
    """All families: tests/backbones/test_registry_wide.py."""
    model = settled(SMALL["swiftformer"]())
    card = replace(card, classes=tuple("abcdefg"), preprocessing=card.preprocessing.at(64))
    file = export_onnx(model, tmp_path / "model.onnx", card=card)
    assert {rewrite.name for rewrite in file.rewrites} == APPLIES["swiftformer"]
    images = torch.randn(3, 3, 64, 64)
    expected = model(images.double()).numpy()
    found = ExportedClassifier.load(file.path, threads=1).logits(images.numpy())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


# Known savings, counted by hand


def test_norm_after_a_convolution() -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()))
    rewritten, (rewrite,) = rewrite_for_inference(model, size=16)
    assert rewrite.name == "fold_norm_after"
    assert rewrite.places == ("1",)
    assert rewrite.params_saved == 16 - 8  # scale and shift went, a bias came
    assert rewrite.macs_saved == 0
    assert rewrite.activations_saved == 8 * 8 * 8
    agree(model, rewritten, 16)


def test_norm_before_a_convolution_in_groups() -> None:
    model = settled(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, groups=2)))
    rewritten, (rewrite,) = rewrite_for_inference(model, size=9, in_chans=6)
    assert (rewrite.name, rewrite.params_saved) == ("fold_norm_before", 12)
    agree(model, rewritten, 9, chans=6)


def test_two_pointwise_convolutions() -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.ReLU()))
    rewritten, (rewrite,) = rewrite_for_inference(model, size=4)
    assert (rewrite.name, rewrite.places) == ("compose_linear_maps", ("0",))
    assert rewrite.params_saved == (3 * 16 + 16 + 16 * 8) - 3 * 8
    assert rewrite.macs_saved == ((3 * 16 + 16 * 8) - 3 * 8) * 16
    assert rewrite.activations_saved == 16 * 16
    agree(model, rewritten, 4)


@pytest.mark.parametrize("patch", [1, 2])
def test_softmax_attention_of_maps(patch: int) -> None:
    model = settled(nn.Sequential(nn.Conv2d(3, 8, 1), SoftmaxAttention(dim=8, heads=2, patch=patch)))
    rewritten, (rewrite,) = rewrite_for_inference(model, size=6)
    assert (rewrite.name, rewrite.places) == ("split_softmax_attention", ("1",))
    assert rewrite.params_saved == 8 + 8  # the biases of key and value
    agree(model, rewritten, 6)


def test_norms_are_folded_beside_replaced_attention() -> None:
    names = ["split_softmax_attention", "fold_transformer_norms"]  # not in their usual order
    model = settled(SMALL["mobilevit"]())
    rewritten, rewrites = rewrite_for_inference(model, size=64, names=names)
    assert [rewrite.name for rewrite in rewrites] == names
    assert all(not place.endswith("norm1") for place in rewrites[1].places)
    agree(model, rewritten, 64)


class Pooled(nn.Module):
    """Layers, the mean over the pixels, one or two classifiers."""

    def __init__(self, layers: nn.Module, heads: int = 1, classes: int = 5) -> None:
        super().__init__()
        self.layers = layers
        self.head = nn.Linear(8, classes)
        self.head_dist = nn.Linear(8, classes) if heads == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x).mean(dim=(2, 3))
        return self.head(x) if self.head_dist is None else (self.head(x) + self.head_dist(x)) / 2


def test_through_the_mean_into_the_classifiers() -> None:
    model = settled(Pooled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)), heads=2))
    rewritten, rewrites = rewrite_for_inference(model, size=8)
    assert [(rewrite.name, rewrite.params_saved) for rewrite in rewrites] == [
        ("fold_norm_before", 16),
        ("average_classifiers", 8 * 5 + 5),
    ]
    agree(model, rewritten, 8)


def test_convolution_into_the_classifier() -> None:
    model = settled(Pooled(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 1, bias=False))))
    rewritten, (rewrite,) = rewrite_for_inference(model, size=8)
    assert rewrite.macs_saved == 3 * 8 * 64 + 8 * 5 - 3 * 5
    agree(model, rewritten, 8)


# Where it would not be exact


class Reused(nn.Module):
    """The output of the first layer is read by the second and by the sum."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) + x


class Shared(nn.Module):
    """One convolution, two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 3, 1), nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = norm(self.conv(x)).relu()
        return x


class Tied(nn.Module):
    """Two convolutions with the same weights, a norm after one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x)) * self.b(x)


class Inspected(nn.Module):
    """What the convolution returns also leaves the network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x)
        return x, self.norm(x)


class ChangedInPlace(nn.Module):
    """An activation in place stands between convolution and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x.relu_()
        return self.norm(x)


NOT_EXACT = {
    "norm before a padded convolution": nn.Sequential(
        nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)
    ),
    "norm before an activation": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()),
    "norm without statistics": nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
    ),
    "activation between": nn.Sequential(nn.Conv2d(3, 9, 1), nn.SiLU(), nn.Conv2d(9, 3, 1)),
    "more work": nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 30, 1)),
    "pointwise before padded": nn.Sequential(nn.Conv2d(3, 9, 1), nn.Conv2d(9, 3, 3, padding=1)),
    "norm of a reused convolution": Reused(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
    "reused norm": Reused(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 1)),
    "reused convolution": Reused(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)),
    "convolution called twice": Shared(),
    "shared weights": Tied(),
    "inspected convolution": Inspected(),
    "changed in place": ChangedInPlace(),
}


@pytest.mark.parametrize("case", NOT_EXACT)
def test_nothing_is_done_where_it_is_not_exact(case: str) -> None:
    model = settled(NOT_EXACT[case])
    rewritten, rewrites = rewrite_for_inference(model, size=8)
    assert not rewrites
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(rewritten(images), model(images), rtol=0, atol=0)


class OneByOne(nn.Module):
    """Classifiers that are not averaged."""

    def __init__(self, combine: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.head, self.head_dist, self.combine = nn.Linear(3, 5), nn.Linear(3, 5), combine

    def forward(self, x: Tensor) -> object:
        x = x.mean(dim=(2, 3))
        return self.combine(self.head(x), self.head_dist(x))


@pytest.mark.parametrize(
    "combine",
    [lambda a, b: (a, b), lambda a, b: a - b, lambda a, b: (a + b) * a],
    ids=["both", "minus", "again"],
)
def test_classifiers_that_are_not_averaged_stay(combine: Callable[[Tensor, Tensor], object]) -> None:
    assert not rewrite_for_inference(settled(OneByOne(combine)), size=8)[1]


def test_unknown_rewrite() -> None:
    with pytest.raises(UnknownNameError, match="fold_norm_after"):
        rewrite_for_inference(settled(SMALL["cas_vit"]()), size=64, names=["fold_norm_aftr"])


def test_network_that_does_not_fit_the_image() -> None:
    with pytest.raises(ExportError, match="Sequential cannot run on one 8×8 image"):
        rewrite_for_inference(nn.Sequential(nn.Conv2d(4, 4, 1)), size=8)


def test_network_that_looks_at_numbers() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) if x.mean() < 100 else x

    model = settled(Looking())
    rewritten, (rewrite,) = rewrite_for_inference(model, size=8)
    assert rewrite.name == "fold_norm_after"
    agree(model, rewritten, 8)


def test_every_rewrite_is_tested() -> None:
    assert set().union(*APPLIES.values()) == set(REWRITES)
    assert all(step.__doc__ for step in REWRITES.values())
