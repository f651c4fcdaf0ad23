import pytest
import timm
import torch

from pocketvit.backbones import create_model


@pytest.mark.parametrize("name", ["swiftformer_xs", "swiftformer_s", "swiftformer_l1", "swiftformer_l3"])
def test_equals_timm(name, check_parity):
    check_parity(timm.create_model(name), create_model(name))


@pytest.mark.parametrize("size", [(72, 104), (50, 65)])
def test_equals_timm_on_odd_and_oblong_maps(size, check_parity):
    check_parity(timm.create_model("swiftformer_xs"), create_model("swiftformer_xs"), size=size)


def test_gradients_equal_timm(check_parity):
    check_parity(
        timm.create_model("swiftformer_xs", num_classes=5),
        create_model("swiftformer_xs", num_classes=5),
        size=(64, 96),
        gradients=True,
    )


@pytest.mark.parametrize(
    ("size", "first8", "total", "norm"),
    [
        (
            224,
            [
                0.25562102,
                -0.10583109,
                -0.11856169,
                0.2279145,
                0.08826294,
                -0.00993039,
                -0.01840926,
                -0.23764355,
            ],
            -0.174511,
            4.596083,
        ),
        (
            256,
            [
                0.25585448,
                -0.09987978,
                -0.11902218,
                0.22620608,
                0.0896113,
                -0.0063126,
                -0.01686291,
                -0.23923912,
            ],
            0.032158,
            4.605762,
        ),
    ],
)
def test_golden_logits(size, first8, total, norm, check_golden):
    model = create_model("swiftformer_xs")
    check_golden(model, scale=0.5, size=size, first8=first8, total=total, norm=norm, argmax=908)


def test_training_returns_the_mean_of_both_heads_or_both_on_request():
    model = create_model("swiftformer_xs", num_classes=4).train()
    images = torch.rand(2, 3, 64, 64)
    assert model(images).shape == (2, 4)
    model.set_distilled_training()
    logits, distilled = model(images)
    assert not torch.equal(logits, distilled)
    with torch.no_grad():
        assert model.eval()(images).shape == (2, 4)


def test_stochastic_depth_grows_with_depth_and_is_off_in_evaluation():
    model = create_model("swiftformer_xs", num_classes=4)
    images = torch.rand(2, 3, 64, 64)
    expected = model.eval()(images)
    model.set_drop_path(0.2)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.2)
    assert rates == sorted(rates)
    assert torch.equal(model(images), expected)


def test_layer_scales_start_as_published():
    model = create_model("swiftformer_xs")
    block = model.stages[0].blocks[-1]
    assert block.local_representation.layer_scale.gamma.unique().item() == 1
    assert block.layer_scale_1.gamma.unique().item() == pytest.approx(1e-5)
    assert block.attn.w_g.std().item() == pytest.approx(1, rel=0.5)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
