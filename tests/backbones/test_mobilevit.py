import pytest
import timm
import torch

from pocketvit.backbones import create_model

SCALE = 1.5  # of the weights: the features depend on the image


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevit_xs", "mobilevit_s"])
@pytest.mark.parametrize("size", [(64, 64), (72, 104)])  # 72 / 8 = 9 and 104 / 8 = 13: the resize of odd maps
def test_equals_timm(name, size, check_parity):
    check_parity(timm.create_model(name), create_model(name), size=size, scale=SCALE)


@pytest.mark.parametrize("size", [(64, 96), (72, 72)])
def test_gradients_equal_timm(size, check_parity):
    check_parity(
        timm.create_model("mobilevit_xxs", num_classes=5),
        create_model("mobilevit_xxs", num_classes=5),
        size=size,
        gradients=True,
        scale=SCALE,
    )


@pytest.mark.parametrize(
    ("size", "first8", "total", "norm"),
    [
        (
            256,
            [0.26120575, -0.1458592, 0.13819954, 0.14078104, 0.07666004, -0.09030754, 0.14852042, 0.1956265],
            0.699691,
            4.825629,
        ),
        (
            288,  # 288 / 32 = 9: odd
            [0.26893137, -0.14720686, 0.13691983, 0.14399076, 0.07500354, -0.09351108, 0.14942974, 0.1972769],
            0.778223,
            4.869126,
        ),
    ],
)
def test_golden_logits(size, first8, total, norm, check_golden):
    model = create_model("mobilevit_xs")
    check_golden(model, scale=1.0, size=size, first8=first8, total=total, norm=norm, argmax=348)


def test_initial_weights_are_drawn_as_timm_draws_them():
    ours, theirs = create_model("mobilevit_xxs"), timm.create_model("mobilevit_xxs")
    for (name, a), (other, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        if a.numel() > 2000:
            assert a.std().item() == pytest.approx(b.std().item(), rel=0.12), name
        elif name.endswith("bn.weight"):
            assert torch.equal(a, b), name
