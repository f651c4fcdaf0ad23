"""Every family with every mixer: the mixer laboratory."""

from dataclasses import replace
from math import ceil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.cas_vit import CASViT, CASViTSpec
from pocketvit.backbones.mobilevit import MobileViT, MobileViTSpec
from pocketvit.backbones.mobilevitv2 import MobileViTV2, MobileViTV2Spec
from pocketvit.backbones.options import BuildOptions
from pocketvit.backbones.swiftformer import SwiftFormer, SwiftFormerSpec
from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.deployment import ExportedClassifier, export_onnx, rewrite_for_inference
from pocketvit.mixers import get_mixer, list_mixers
from pocketvit.tasks import ModelCard

SMALLEST = {
    "mobilevit": "mobilevit_xxs",
    "mobilevitv2": "mobilevitv2_050",
    "swiftformer": "swiftformer_xs",
    "cas_vit": "cas_vit_xs",
}
OWN = {family: get_entry(name).mixer for family, name in SMALLEST.items()}
FOREIGN = [(family, mixer) for family in SMALLEST for mixer in list_mixers() if mixer != OWN[family]]
NETWORKS = {  # each of few channels and blocks
    "mobilevit": (
        MobileViT,
        MobileViTSpec(
            widths=(16, 16, 24, 24, 32), dims=(16, 24, 32), features=40, expansion=2, depths=(1, 1, 2)
        ),
    ),
    "mobilevitv2": (MobileViTV2, MobileViTV2Spec(width=0.25, depths=(1, 2, 1))),
    "swiftformer": (SwiftFormer, SwiftFormerSpec(widths=(16, 24, 32, 40), depths=(2, 1, 2, 2))),
    "cas_vit": (CASViT, CASViTSpec(widths=(16, 24, 32, 40), depths=(1, 1, 2, 1))),
}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def build(randomise):
    """A small network whose every tensor matters, in double precision and evaluation mode."""

    def make(family, mixer, **options):
        network, spec = NETWORKS[family]
        factory = get_mixer(mixer) if mixer else None
        model = network(spec, num_classes=5, mixer=factory, **options)
        return randomise(model, scale=1.5 if "mobilevit" in family else 0.5).double().eval()

    return make


def _images(height=64, width=64, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).double()


def test_each_family_has_a_mixer_of_its_own():
    assert OWN == {
        "mobilevit": "softmax",
        "mobilevitv2": "separable",
        "swiftformer": "additive",
        "cas_vit": "convolutional",
    }


@pytest.mark.parametrize("family", SMALLEST)
def test_its_own_mixer_by_name_is_the_network_as_published(family):
    torch.manual_seed(0)
    own = create_model(SMALLEST[family], num_classes=5).eval()
    torch.manual_seed(0)
    named = create_model(SMALLEST[family], num_classes=5, mixer=OWN[family]).eval()
    assert list(own.state_dict()) == list(named.state_dict())
    with torch.no_grad():
        assert torch.equal(own(torch.ones(1, 3, 64, 64)), named(torch.ones(1, 3, 64, 64)))


@pytest.mark.parametrize("size", [(64, 64), (72, 104), (97, 65)])
@pytest.mark.parametrize("family", SMALLEST)
def test_another_mixer_stands_where_the_own_one_does(family, size, build):
    """The paper's mixer put in as if it were a foreign one computes what the paper's network does."""
    own, foreign = build(family, None), build(family, OWN[family])
    state = {key.replace(".attn.mixer.", ".attn."): key for key in foreign.state_dict()}
    foreign.load_state_dict({state[key]: value for key, value in own.state_dict().items()}, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(foreign(_images(*size)), own(_images(*size)), **CLOSE)


@pytest.mark.parametrize(("family", "mixer"), FOREIGN)
def test_any_size_and_each_image_by_itself(family, mixer, build):
    model = build(family, mixer)
    with torch.no_grad():
        for size in ((64, 64), (97, 65), (32, 33)):
            images = _images(*size)
            logits = model(images)
            alone = torch.cat([model(image[None]) for image in images])
            torch.testing.assert_close(alone, logits, **CLOSE)
            assert (logits[0] - logits[1]).abs().max() > 1e-4
            levels = model.forward_intermediates(images, intermediates_only=True)
            assert [level.shape[2:] for level in levels] == [
                (ceil(size[0] / stride), ceil(size[1] / stride)) for stride in (4, 8, 16, 32)
            ]


@pytest.mark.parametrize(("family", "mixer"), FOREIGN)
def test_backward_reaches_every_parameter(family, mixer, build):
    model = build(family, mixer).train()
    for size in ((64, 64), (97, 65)):
        model.zero_grad()
        model(_images(*size)).square().sum().backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("family", SMALLEST)
@pytest.mark.parametrize("mixer", list_mixers())
def test_built_by_name_and_saved_and_loaded(family, mixer, tmp_path):
    name, options = SMALLEST[family], {"num_classes": 3, "in_chans": 1, "mixer": mixer}
    model, other = (create_model(name, **options).eval() for _ in "ab")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    image = torch.rand(1, 1, 65, 64)
    with torch.no_grad():
        assert torch.equal(other(image), model(image))


@pytest.mark.parametrize("family", SMALLEST)
def test_initial_weights_are_drawn_as_the_familys_others(family):
    own, other = (create_model(SMALLEST[family], mixer=mixer) for mixer in (OWN[family], "softmax"))
    head = {"swiftformer": "head.weight", "cas_vit": "head.weight"}.get(family, "head.fc.weight")
    assert other.state_dict()[head].std() == pytest.approx(own.state_dict()[head].std().item(), rel=0.1)
    biases = [v for k, v in other.named_parameters() if ".attn." in k and k.endswith("bias")]
    assert biases
    if family != "cas_vit":  # which leaves all but its head as torch draws them
        assert all(not bias.any() for bias in biases)


@pytest.mark.parametrize(("family", "mixer"), FOREIGN)
def test_rewrites_stay_exact(family, mixer, build):
    size = 56  # maps of 14, 7, 4 and 2: odd and even
    model = build(family, mixer)
    rewritten, rewrites = rewrite_for_inference(model, size=size)
    images = _images(size, size)
    with torch.no_grad():
        torch.testing.assert_close(rewritten(images), model(images), **CLOSE)
    names = {rewrite.name for rewrite in rewrites}
    assert "fold_norm_after" in names
    assert not names & {"fold_separable_norms", "map_separable_attention", "unfold_tokens"}  # of own mixers
    found = {
        "additive": "merge_additive_attention",
        "convolutional": "split_convolutional_mixer",
        "softmax": "split_softmax_attention",
    }
    assert names & set(found.values()) == ({found[mixer]} if mixer in found else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "mixer"),
    [
        ("mobilevit", "additive"),
        ("mobilevitv2", "convolutional"),
        ("swiftformer", "separable"),
        ("cas_vit", "softmax"),
    ],
)
def test_exported_file_computes_the_same(family, mixer, build, shallow, tmp_path):
    size = 96  # ends in a 3×3 map, which 2×2 patches do not divide
    entry, model = get_entry(SMALLEST[family]), shallow(build(family, mixer)).float()
    card = ModelCard(
        name=entry.name,
        classes=tuple("abcde"),
        preprocessing=replace(entry.preprocessing, size=size),
        code_licence=entry.code_licence,
        weights_licence=entry.weights_licence,
        source=entry.source,
        options=BuildOptions(mixer=mixer),
    )
    file = export_onnx(model, tmp_path / "model.onnx", card=card)
    exported = ExportedClassifier.load(file.path, threads=1)
    images = _images(size, size, batch=3).float()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images), rtol=1e-3, atol=1e-4)
    assert exported.card.options == BuildOptions(mixer=mixer)


@pytest.mark.parametrize("family", SMALLEST)
def test_features_and_output_stride(family):
    model = create_model(SMALLEST[family], features_only=True, output_stride=8, mixer="softmax").eval()
    with torch.no_grad():
        levels = model(torch.rand(1, 3, 75, 50))
    assert [level.shape[2:] for level in levels] == [(19, 13)] + 3 * [(10, 7)]


@pytest.mark.parametrize("family", ["mobilevitv2", "swiftformer", "cas_vit"])
def test_convolutions_of_mixers_are_dilated_with_their_stage(family, build):
    model = build(family, "convolutional", output_stride=16)
    last = model.levels()[-1]
    mixers = [m for level in last for name, m in level.named_modules() if name.endswith("attn")]
    convs = [m for mixer in mixers for m in mixer.modules() if getattr(m, "kernel_size", 1) == (3, 3)]
    assert convs
    assert {(conv.dilation, conv.padding) for conv in convs} == {((2, 2), (2, 2))}


def test_a_mixer_of_ones_own():
    def factory(dim):
        return nn.Conv2d(dim, dim, 3, padding="same", groups=dim)

    model = create_model("cas_vit_xs", num_classes=2, output_stride=8, mixer=factory)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 2)
    assert {m.attn.dilation for m in model.modules() if hasattr(m, "attn")} == {(1, 1), (2, 2), (4, 4)}
    with pytest.raises(ConfigError, match="has no name") as error:
        BuildOptions(mixer=factory).to_dict()
    assert "register_mixer" in error.value.fix


def test_a_mixer_among_the_options():
    options = BuildOptions(mixer="softmax")
    assert options.to_dict() == {"mixer": "softmax"}
    assert BuildOptions.from_dict({"mixer": "softmax"}) == options
    with pytest.raises(ConfigError, match="mixer cannot be 3"):
        BuildOptions.from_dict({"mixer": 3})


@pytest.mark.parametrize("name", ["mobile_former_26m", "efficientformer_l1", "resnet10t"])
@pytest.mark.parametrize("features_only", [False, True])
def test_families_without_such_a_mixer_say_which_have_one(name, features_only):
    with pytest.raises(ConfigError, match=f"'{name}' has no token mixer") as error:
        create_model(name, mixer="softmax", features_only=features_only)
    assert "cas_vit, mobilevit, mobilevitv2, swiftformer" in error.value.fix


def test_unknown_mixer_and_published_weights_of_another():
    with pytest.raises(UnknownNameError, match="no mixer named 'seperable'"):
        create_model("swiftformer_xs", mixer="seperable")
    with pytest.raises(ConfigError, match="for its own mixer, additive"):
        create_model("swiftformer_xs", mixer="separable", pretrained=True)


def test_every_model_of_these_families_takes_one():
    for name in list_models():
        entry = get_entry(name)
        assert (entry.mixer is not None) == (entry.family in SMALLEST)
