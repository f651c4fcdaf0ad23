import pytest
import torch
from torch import nn

from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.mixers import get_mixer, list_mixers, register_mixer, registry


@pytest.mark.parametrize("name", list_mixers())
def test_every_mixer_keeps_the_shape_of_any_map_and_mixes_its_pixels(name):
    torch.manual_seed(0)
    mixer = get_mixer(name)(24).eval()
    for size in ((1, 1), (4, 4), (5, 3)):
        x = torch.randn(2, 24, *size, requires_grad=True)
        mixed = mixer(x)
        assert mixed.shape == x.shape
        mixed[..., 0, 0].square().sum().backward()
        assert x.grad.abs().sum(dim=1).gt(0).all(), "some pixel makes no difference to the first"


def test_the_four_papers_have_one_each():
    assert list_mixers() == ["separable", "additive", "convolutional", "softmax"]


@pytest.mark.parametrize(
    ("name", "fix"), [("seperable", "separable"), ("x", "There are: separable, additive")]
)
def test_unknown_name(name, fix):
    with pytest.raises(UnknownNameError, match=f"no mixer named '{name}'") as error:
        get_mixer(name)
    assert fix in error.value.fix


def test_a_mixer_of_ones_own_gets_a_name_that_is_free(monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    register_mixer("nothing", lambda dim: nn.Identity())
    assert isinstance(get_mixer("nothing")(8), nn.Identity)
    with pytest.raises(ConfigError, match="'softmax' already"):
        register_mixer("softmax", lambda dim: nn.Identity())
