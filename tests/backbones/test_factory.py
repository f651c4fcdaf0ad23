import subprocess
import sys

import pytest
import torch

import pocketvit
from pocketvit.backbones import create_model, pretrained
from pocketvit.core.errors import CheckpointError, ConfigError, UnknownNameError


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_045", "swiftformer_xs", "cas_vit_xs"])
def test_features_only(name):
    model = create_model(name, features_only=True, in_chans=1)
    levels = model(torch.rand(1, 1, 64, 64))
    assert [level.shape[-1] for level in levels] == [16, 8, 4, 2]
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [level.shape[1] for level in levels] == model.feature_info.channels()
    assert not any("head" in key for key in model.state_dict())


def test_timm_models_are_built_by_name():
    model = create_model("mobilenetv3_small_050", num_classes=3, in_chans=1)
    assert model(torch.rand(2, 1, 64, 64)).shape == (2, 3)


def test_timm_features_have_the_same_strides():
    model = create_model("mobilenetv3_small_050", features_only=True, in_chans=2)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert [level.shape[-1] for level in model(torch.rand(1, 2, 64, 64))] == [16, 8, 4, 2]


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"])
@pytest.mark.parametrize("out_indices", [(0, 1), (3,), (1, 3)])
def test_chosen_features_are_the_same_ones_and_deeper_levels_are_dropped(name, out_indices):
    chosen = create_model(name, features_only=True, out_indices=out_indices).eval()
    every = create_model(name, features_only=True).eval()
    chosen.load_state_dict(every.state_dict(), strict=False)
    images = torch.rand(1, 3, 45, 64)
    with torch.no_grad():
        levels, expected = chosen(images), every(images)
    assert len(levels) == len(out_indices)
    for level, index in zip(levels, out_indices, strict=True):
        assert torch.equal(level, expected[index])
    assert chosen.feature_info.channels() == [every.feature_info.channels()[index] for index in out_indices]
    size, whole = (sum(p.numel() for p in model.parameters()) for model in (chosen, every))
    assert size == whole if 3 in out_indices else size < 0.4 * whole


def test_features_that_do_not_exist():
    with pytest.raises(ConfigError, match="no feature maps"):
        create_model("cas_vit_xs", features_only=True, out_indices=(1, 4))
    with pytest.raises(ConfigError, match="features_only is not set"):
        create_model("cas_vit_xs", out_indices=(1,))


def test_timm_models_with_an_output_stride():
    model = create_model("mobilenetv3_small_050", features_only=True, out_indices=(1, 3), output_stride=16)
    assert model.feature_info.reduction() == [8, 16]
    assert [level.shape[-1] for level in model(torch.rand(1, 3, 64, 64))] == [8, 4]
    logits = create_model("resnet10t", num_classes=2, output_stride=8)(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 2)
    with pytest.raises(ConfigError, match=r"vit_tiny_patch16_224.* output stride of 16"):
        create_model("vit_tiny_patch16_224", output_stride=16)


def test_unknown_name():
    with pytest.raises(UnknownNameError, match="mobilevit_xs"):
        create_model("mobilevit-xs")


def test_pretrained_is_never_silently_random(monkeypatch):
    with pytest.raises(CheckpointError, match="No published weights of cas_vit_xs"):
        create_model("cas_vit_xs", pretrained=True)

    def unreachable(_hub):
        raise OSError("no network")

    monkeypatch.setattr(pretrained, "_fetch", unreachable)
    with pytest.raises(CheckpointError, match="no network"):
        create_model("mobilevit_xxs", pretrained=True)


def test_top_level_names_are_the_backbones_ones():
    assert pocketvit.create_model is create_model
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pocketvit.nonsense


def test_import_is_lean_and_silent():
    code = "import sys, pocketvit; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    code = "import pocketvit; print(pocketvit.create_model, pocketvit.list_models, pocketvit.get_entry)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout.count("<function") == 3
    assert done.stderr == ""
