"""Every family of ours at any height, width, batch size and number of channels."""

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.backbones import create_model
from pocketvit.core.errors import DataError

SMALLEST = [
    *("mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"),
    *("mobile_former_26m", "efficientformer_l1", "efficientformerv2_s0"),
]


@pytest.fixture(scope="module", params=SMALLEST)
def network(request):
    torch.manual_seed(0)
    return create_model(request.param, num_classes=3).eval()


@settings(max_examples=8, deadline=None)
@given(H=st.integers(32, 130), W=st.integers(32, 130), batch=st.integers(1, 2))
def test_levels_are_exactly_the_size_over_the_stride_rounded_up(network, H, W, batch):
    images = torch.rand(batch, 3, H, W)
    with torch.no_grad():
        last, levels = network.forward_intermediates(images)
        logits = network.forward_head(last)
    for level, info in zip(levels, network.feature_info, strict=True):
        stride = info["reduction"]
        assert level.shape == (batch, info["num_chs"], ceil(H / stride), ceil(W / stride))
    assert logits.shape == (batch, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [(64, 64), (45, 70), (33, 97)])
@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_does_not_see_the_others_of_its_batch(name, size, randomise):
    scale = 1.5 if name.startswith("mobilevit") else 0.5
    torch.manual_seed(0)
    model = randomise(create_model(name, num_classes=3), scale=scale).double().eval()
    images = torch.rand(3, 3, *size).double()
    with torch.no_grad():
        together = model.forward_features(images)
        alone = torch.cat([model.forward_features(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    # Far more than the tolerance above: what one image gives does depend on the image.
    assert (together[0] - together[1]).abs().max() > 1e-6 * together.abs().max()


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("in_chans", [1, 2, 4])
def test_any_number_of_channels(name, in_chans):
    model = create_model(name, num_classes=2, in_chans=in_chans)
    model(torch.rand(2, in_chans, 65, 40)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_the_least_size_works(network):
    with torch.no_grad():
        assert network(torch.rand(1, 3, 32, 32)).shape == (1, 3)
        assert network.forward_features(torch.rand(1, 3, 32, 33)).shape[2:] == (1, 2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 31, 64), "31×64 px, the least is 32×32"),
        ((1, 3, 64, 8), "64×8 px"),
        ((1, 1, 64, 64), "1 channel, the network is built for 3"),
        ((2, 4, 64, 64), "4 channels, the network is built for 3"),
        ((3, 64, 64), r"\(B, C, H, W\), not a tensor of shape \(3, 64, 64\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(network, shape, message):
    for call in (network, network.forward_features, network.forward_intermediates):
        with pytest.raises(DataError, match=message):
            call(torch.rand(shape))


@pytest.mark.parametrize("name", SMALLEST)
def test_torch_export_at_an_oblong_odd_size(name, shallow):
    size = (70, 45)
    model = shallow(create_model(name, num_classes=3)).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.rand(2, 3, *size),), dynamic_shapes=({0: batch},))
    more = torch.rand(3, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), model(more), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["swiftformer_xs", "cas_vit_xs"])
def test_torch_export_with_any_height_and_width(name, shallow):
    model = shallow(create_model(name, num_classes=3)).eval()
    images = torch.rand(2, 3, 96, 132)
    sizes = {axis: torch.export.Dim(f"axis{axis}", min=low) for axis, low in ((0, 1), (2, 33), (3, 33))}
    program = torch.export.export(model, (images,), dynamic_shapes=(sizes,))
    for size in ((33, 64), (101, 47)):
        other = torch.rand(3, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-5)
