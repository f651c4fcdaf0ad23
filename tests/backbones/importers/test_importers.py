"""Every variant of every code base, under names that the tests write out independently."""

from pathlib import Path

import pytest
import torch

from pocketvit.backbones import create_model
from pocketvit.backbones.importers import import_checkpoint
from pocketvit.backbones.importers.recognition import IMPORTERS, recognise
from pocketvit.backbones.weights_file import WeightsFile

CVNETS = "apple/ml-cvnets"
SNAP = "snap-research/EfficientFormer"
TIMM = "huggingface/pytorch-image-models"
VARIANTS = {
    **dict.fromkeys(["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"], CVNETS),
    **{f"mobilevitv2_{width:03d}": CVNETS for width in (50, 75, 100, 125, 150, 175, 200, 60, 37)},
    **{f"swiftformer_{size}": "Amshaker/SwiftFormer" for size in ("xs", "s", "l1", "l3")},
    **{f"cas_vit_{size}": "Tianfang-Zhang/CAS-ViT" for size in ("xs", "s", "m", "t")},
    **{f"efficientformer_{size}": SNAP for size in ("l1", "l3", "l7")},
    **{f"efficientformerv2_{size}": SNAP for size in ("s0", "s1", "s2", "l")},
    **{f"mobile_former_{size}m": "AAboys/MobileFormer" for size in (26, 52, 96, 151, 214, 294, 508)},
}


def shapes(name):
    with torch.device("meta"):
        return create_model(name).state_dict()


def file_of(tensors):
    return WeightsFile(path=Path("weights.pth"), sets={"": tensors}, architecture=None)


@pytest.mark.parametrize(("name", "code_base"), VARIANTS.items())
def test_every_variant_is_found_and_lands_on_its_own_names_and_shapes(official, name, code_base):
    own = shapes(name)
    tensors = official(name, own)
    importer = recognise(file_of(tensors), model=None)
    assert importer.code_base == code_base
    converted = importer.convert(tensors).tensors
    assert importer.variant(converted) == name
    kept = {key: value for key, value in converted.items() if not key.endswith(importer.derived)}
    needed = {key: value for key, value in own.items() if not key.endswith(importer.derived)}
    assert {key: value.shape for key, value in kept.items()} == {k: v.shape for k, v in needed.items()}


@pytest.mark.parametrize(
    "name", [name for name in VARIANTS if not name.startswith(("cas_vit", "mobile_former"))]
)
def test_every_variant_is_found_under_timms_names(name):
    own = shapes(name)
    importer = recognise(file_of(own), model=None)
    assert importer.code_base == TIMM
    assert importer.variant(importer.convert(own).tensors) == name


@pytest.mark.parametrize("name", VARIANTS)
def test_no_file_has_the_marks_of_two_code_bases(official, name):
    for tensors in (shapes(name), official(name, shapes(name))):
        assert sum(importer.marks_found(tensors) == 1 for importer in IMPORTERS) == 1


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilevitv2_050", 64),
        ("swiftformer_xs", 64),
        ("cas_vit_xs", 64),
        ("mobile_former_26m", 64),
        ("mobile_former_52m", 64),
        ("efficientformer_l1", 224),
        ("efficientformerv2_s0", 224),
    ],
)
@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_an_imported_file_computes_bit_for_bit_what_the_original_does(
    original, official, save, tmp_path, name, size, wrapper
):
    network = original(name)
    state = official(name, network.state_dict())
    path = save({f"module.{key}": value for key, value in state.items()}, wrapper=wrapper)
    report = import_checkpoint(path, out=tmp_path / "out")
    assert report.model == name
    assert report.wrapper == wrapper
    assert report.matched == len(network.state_dict())
    assert sum(part["parameters"] for part in report.parts) == sum(p.numel() for p in network.parameters())
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(load(report)(images), network(images))


def test_a_bgr_file_of_mobilevit_is_imported_for_rgb(original, official, save, tmp_path):
    network = original("mobilevit_xxs")
    path = save(official("mobilevit_xxs", network.state_dict()), wrapper=None, name="mobilevit_xxs.pt")
    report = import_checkpoint(path, out=tmp_path / "out")
    assert any("BGR" in change for change in report.changes)
    imported = load(report)
    key = "stem.conv.weight"
    for name, value in network.state_dict().items():
        expected = value[:, [2, 1, 0]] if name == key else value
        assert torch.equal(imported.state_dict()[name], expected)
    bgr = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        ours, theirs = imported.double()(bgr.flip(1)), network.double()(bgr)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("channels", "chans", "reversed_"),
    [("rgb", 3, False), ("bgr", 3, True), (None, 1, False), (None, 4, False)],
)
def test_the_colour_order_can_be_said(original, official, save, tmp_path, channels, chans, reversed_):
    network = original("mobilevit_xxs", in_chans=chans)
    path = save(official("mobilevit_xxs", network.state_dict()), wrapper=None)
    report = import_checkpoint(path, out=tmp_path / "out", channels=channels)
    stem = network.stem.conv.weight
    assert torch.equal(load(report).stem.conv.weight, stem.flip(1) if reversed_ else stem)
    assert any("BGR" in change for change in report.changes) == reversed_


def test_any_weights_for_bgr_images_become_weights_for_rgb(original, save, tmp_path):
    network = original("cas_vit_xs")
    report = import_checkpoint(save(network.state_dict()), out=tmp_path / "out", channels="bgr")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        ours, theirs = load(report).double()(images), network.double()(images.flip(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("averaged", [True, False])
def test_a_training_checkpoint_of_cvnets(original, official, tmp_path, averaged):
    """With the optimizer's state and counters, as its trainer saves it to go on from."""
    network = original("mobilevitv2_050")
    state = official("mobilevitv2_050", network.state_dict())
    zeros = {key: torch.zeros_like(value) for key, value in state.items()}
    optimizer = torch.optim.AdamW(network.parameters())
    content = {
        "iterations": 7,
        "epoch": 2,
        "model_state_dict": zeros if averaged else state,
        "optim_state_dict": optimizer.state_dict(),
        "best_metric": 71.5,
        "gradient_scaler_state_dict": {},
    }
    path = tmp_path / "training_checkpoint_last.pt"
    torch.save(content | ({"ema_state_dict": state} if averaged else {}), path)
    report = import_checkpoint(path, out=tmp_path / "out")
    assert (report.model, report.wrapper) == (
        "mobilevitv2_050",
        "ema_state_dict" if averaged else "model_state_dict",
    )
    assert report.left_out == (["model_state_dict"] if averaged else [])
    imported = load(report).state_dict()
    assert all(torch.equal(imported[key], value) for key, value in network.state_dict().items())


def test_mobilevitv2_and_timms_mobilevit_are_rgb_already(original, official, save, tmp_path):
    network = original("mobilevit_xxs")
    report = import_checkpoint(save(network.state_dict(), wrapper=None), out=tmp_path / "out")
    assert report.changes == []
    assert torch.equal(load(report).state_dict()["stem.conv.weight"], network.stem.conv.weight)


@pytest.mark.parametrize("name", ["swiftformer_xs", "efficientformerv2_s0"])
def test_one_classifier_stands_in_for_two(original, official, save, tmp_path, name):
    network = original(name)
    network.head_dist.load_state_dict(network.head.state_dict())
    state = {k: v for k, v in official(name, network.state_dict()).items() if not k.startswith("dist_head")}
    report = import_checkpoint(save(state), out=tmp_path / "out")
    assert any("one classifier" in change for change in report.changes)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(load(report)(images), network(images))


def test_two_classifiers_of_cas_vit_are_averaged(original, official, save, tmp_path):
    network = original("cas_vit_xs").double()
    second = torch.nn.Linear(220, 1000).double()
    state = network.state_dict() | {f"dist_head.{k}": v for k, v in second.state_dict().items()}
    report = import_checkpoint(save(state), out=tmp_path / "out")
    assert any("averaged" in change for change in report.changes)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        expected = (network.head(features) + second(features)) / 2
        ours = load(report, dtype=torch.float64)(images)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_the_indices_of_position_biases_are_left_out_and_said(original, official, save, tmp_path):
    state = official("efficientformerv2_s0", original("efficientformerv2_s0").state_dict())
    tables = sum(key.endswith("attention_bias_idxs") for key in state)
    assert tables
    report = import_checkpoint(save(state), out=tmp_path / "out")
    assert report.changes == [f"{tables} tables that the network computes itself were left out."]


def load(report, *, dtype=torch.float32):
    from safetensors.torch import load_file

    model = create_model(report.model, num_classes=report.num_classes, in_chans=report.in_chans).to(dtype)
    model.load_state_dict(load_file(report.file), strict=True)
    return model.eval()
