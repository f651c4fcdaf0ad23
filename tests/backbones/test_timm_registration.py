"""The families that we add to timm keep what timm asks of any model in its own generic tests."""

import pytest
import timm
import torch

from pocketvit.backbones import get_entry, list_models

ADDED = [
    name for name in list_models() if name.startswith(("cas_vit_", "mobile_former_")) and name[-3:] != "384"
]
SMALL = ["cas_vit_xs", "mobile_former_26m", "mobile_former_96m"]


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def test_timm_lists_every_added_model():
    assert set(ADDED) == {*timm.list_models("cas_vit_*"), *timm.list_models("mobile_former_*")}
    assert len(ADDED) == 11


@pytest.mark.parametrize("name", ADDED)
def test_default_cfg_is_true(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    cfg, state = model.default_cfg, model.state_dict()
    pre = get_entry(name).preprocessing
    assert cfg["input_size"] == (3, pre.size, pre.size)
    assert (cfg["mean"], cfg["std"]) == (pre.mean, pre.std)
    assert (cfg["crop_pct"], cfg["interpolation"]) == (pre.crop, pre.interpolation)
    assert state[f"{cfg['first_conv']}.weight"].shape[1] == 3
    assert state[f"{cfg['classifier']}.weight"].shape[0] == cfg["num_classes"] == model.num_classes == 1000
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])


def test_forward(name):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 224, 224))
    assert logits.shape == (1, 1000)
    assert torch.isfinite(logits).all()


def test_backward_reaches_every_parameter(name):
    model = timm.create_model(name, num_classes=42).train()
    logits = model(torch.randn(2, 3, 128, 128))
    assert logits.shape == (2, 42)
    logits.mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_features_then_head_with_and_without_pooling(name):
    model = timm.create_model(name).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        features = model.forward_features(images)
        assert features.shape == (1, model.num_features, *model.default_cfg["pool_size"])
        model.reset_classifier(0)
        pooled = model(images)
        assert pooled.shape == (1, model.head_hidden_size)
        assert torch.equal(pooled, model.forward_head(features, pre_logits=True))
        model.reset_classifier(0, "")
        assert torch.equal(model(images), features)
        model.reset_classifier(5, "avg")
        assert model(images).shape == (1, 5)
        assert model.num_classes == 5


def test_without_pooling_from_the_start(name):
    model = timm.create_model(name, num_classes=0, global_pool="").eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).shape == (1, model.num_features, 2, 3)


def test_features_only(name):
    model = timm.create_model(name, features_only=True).eval()
    with torch.no_grad():
        levels = model(torch.randn(2, 3, 96, 96))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for level, chans, stride in zip(
        levels, model.feature_info.channels(), model.feature_info.reduction(), strict=True
    ):
        assert level.shape == (2, chans, 96 // stride, 96 // stride)
    some = timm.create_model(name, features_only=True, out_indices=(1, 3))
    assert some.feature_info.reduction() == [8, 32]


def test_intermediates_are_those_of_the_whole_network(name):
    model = timm.create_model(name).eval()
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        final, levels = model.forward_intermediates(images)
        assert torch.equal(final, model.forward_features(images))
        assert len(levels) == len(model.feature_info) == 4
        last = model.forward_intermediates(images, indices=1, intermediates_only=True)
    assert torch.equal(last[0], levels[-1])


def test_channels_and_stochastic_depth_are_passed_on_and_unknown_options_refused(name):
    model = timm.create_model(name, in_chans=4, num_classes=7, drop_path_rate=0.1)
    assert model.train()(torch.rand(2, 4, 64, 64)).shape == (2, 7)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.1)
    with pytest.raises(TypeError, match="window_size"):
        timm.create_model(name, window_size=7)


def test_our_licence_reaches_timm():
    cfg = timm.get_pretrained_cfg("mobile_former_52m")
    assert cfg.license == "no licence stated (all rights reserved)"
    assert (cfg.paper_ids, cfg.origin_url) == ("arXiv:2108.05895", "https://github.com/AAboys/MobileFormer")
    assert not cfg.has_weights
