import pytest
import timm
import torch

from pocketvit.backbones import create_model


@pytest.mark.parametrize(
    ("size", "first8", "total", "norm"),
    [
        (
            224,
            [
                -0.06669707,
                0.01409051,
                -0.30473516,
                -0.21093705,
                -0.1188683,
                0.1498303,
                -0.12252374,
                -0.09137354,
            ],
            -5.148375,
            5.567298,
        ),
        (
            288,
            [
                -0.06621031,
                0.01152817,
                -0.30414182,
                -0.21201266,
                -0.12204855,
                0.14885793,
                -0.12158792,
                -0.09138715,
            ],
            -5.109963,
            5.583112,
        ),
    ],
)
def test_golden_logits_of_the_official_code(size, first8, total, norm, check_golden):
    model = create_model("cas_vit_xs")
    check_golden(model, scale=0.4, size=size, first8=first8, total=total, norm=norm, argmax=134)


def test_state_dict_has_the_official_names():
    state = create_model("cas_vit_xs").state_dict()
    assert len(state) == 522
    for key, shape in {
        "patch_embed.3.weight": (48, 24, 3, 3),
        "network.0.1.local_perception.network.2.weight": (48, 1, 3, 3),
        "network.0.0.attn.oper_k.1.block.1.weight": (48, 48, 1, 1),
        "network.1.proj.weight": (56, 48, 3, 3),
        "network.6.1.mlp.fc2.bias": (220,),
        "norm.running_mean": (220,),
        "head.weight": (1000, 220),
    }.items():
        assert state[key].shape == shape


@pytest.mark.parametrize("name", ["cas_vit_xs", "cas_vit_s", "cas_vit_m", "cas_vit_t"])
def test_initial_network_has_finite_logits_and_gradients(name):
    model = create_model(name, num_classes=3).train()
    model(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_timm_builds_it():
    model = timm.create_model("cas_vit_xs", num_classes=7, in_chans=4)
    assert model(torch.rand(2, 4, 64, 64)).shape == (2, 7)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 224, 224)
    assert config["crop_pct"] == 0.875
    model.reset_classifier(2)
    assert model(torch.rand(2, 4, 64, 64)).shape == (2, 2)


def test_timm_knows_every_variant_and_the_384_tag():
    assert timm.list_models("cas_vit_*") == ["cas_vit_m", "cas_vit_s", "cas_vit_t", "cas_vit_xs"]
    larger = timm.get_pretrained_cfg("cas_vit_m.in1k_384")
    assert (larger.input_size, larger.crop_mode) == ((3, 384, 384), "squash")


def test_timm_features_and_pooling_options():
    features = timm.create_model("cas_vit_xs", features_only=True, out_indices=(1, 3))
    assert features.feature_info.reduction() == [8, 32]
    assert [tuple(f.shape) for f in features(torch.rand(1, 3, 64, 64))] == [(1, 56, 8, 8), (1, 220, 2, 2)]
    unpooled = timm.create_model("cas_vit_xs", num_classes=0, global_pool="")
    assert unpooled(torch.rand(1, 3, 64, 64)).shape == (1, 220, 2, 2)


def test_timm_passes_stochastic_depth_on_and_refuses_what_the_network_lacks():
    model = timm.create_model("cas_vit_xs", drop_path_rate=0.1)
    assert max(m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath") == pytest.approx(0.1)
    with pytest.raises(TypeError, match="window_size"):
        timm.create_model("cas_vit_xs", window_size=7)
