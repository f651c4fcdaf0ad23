import subprocess
import sys

import pytest
import torch

import pocketvit
from pocketvit.backbones import create_model, pretrained
from pocketvit.core.errors import CheckpointError, UnknownNameError


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
