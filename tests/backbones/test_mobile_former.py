import pytest
import torch
from torch import nn

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.mobile_former_blocks import Row, make_block
from pocketvit.backbones.mobile_former_layers import (
    ChannelShuffle,
    DynamicReLU,
    Former,
    FormerToMobile,
    MobileToFormer,
)
from pocketvit.backbones.options import Reduction
from pocketvit.core.errors import DataError

# 52m: of the official code. The others: of this code, so that they do not change unnoticed.
GOLDEN = [
    (
        "mobile_former_26m",
        [0.63106535, -1.28637552, -0.24757046, -0.9724759, 0.3577835, 0.27846583, 0.40859375, 0.55904008],
        -10.242454,
        19.992719,
        671,
    ),
    (
        "mobile_former_52m",
        [-0.0808149, -0.38272624, 0.8354965, -0.53258988, 0.29535815, -0.49147111, -0.57992086, 1.22552866],
        -15.036544,
        20.923964,
        201,
    ),
    (
        "mobile_former_96m",
        [0.19028647, 0.32426834, 0.19947616, -1.94710172, 0.76844794, -2.60036961, 0.43694633, -0.83912253],
        -8.279455,
        24.213398,
        342,
    ),
    (
        "mobile_former_151m",
        [0.89451255, 0.84305903, -0.38954306, 0.07212626, 0.85400676, -1.43438881, 0.55994711, 0.73141079],
        -21.100546,
        29.086611,
        771,
    ),
    (
        "mobile_former_214m",
        [-1.06581616, -0.69943138, -0.00432675, 0.74351154, -1.54632764, -0.68302102, -0.2610307, 1.22013275],
        8.560061,
        34.309841,
        467,
    ),
    (
        "mobile_former_294m",
        [-0.90524748, -0.11469776, -0.95926132, 0.40914807, -1.83545326, -0.6581926, 0.90358526, -2.505197],
        -26.476644,
        39.035707,
        526,
    ),
    (
        "mobile_former_508m",
        [0.75668116, -0.38271472, -0.69929995, 0.73792195, -1.3701949, -0.64250511, -0.66720626, -1.08098424],
        -28.455653,
        23.550754,
        466,
    ),
]


@pytest.mark.parametrize(("name", "first8", "total", "norm", "argmax"), GOLDEN)
def test_golden_logits(name, first8, total, norm, argmax, check_golden):
    model = create_model(name)
    check_golden(model, scale=1.0, size=224, first8=first8, total=total, norm=norm, argmax=argmax)


def test_state_dict_has_the_names_of_the_published_checkpoints():
    state = create_model("mobile_former_52m").state_dict()
    assert len(state) == 460
    for key, shape in {
        "tokens.weight": (3, 128),
        "stem.0.weight": (8, 3, 3, 3),
        "features.0.conv.4.weight": (12, 24, 1, 1),
        "features.1.hyper2.hyper.2.weight": (72, 32),
        "features.2.conv4.0.weight": (24, 96, 1, 1),
        "features.2.local_global.alpha.0.weight": (12, 128),
        "features.2.global_local.proj.weight": (24, 128),
        "features.8.global_block.ffn.2.bias": (128,),
        "features.8.conv2.1.running_var": (576,),
        "local_global.layer_norm.weight": (128,),
        "classifier.conv.1.weight": (576, 96, 1, 1),
        "classifier.fc.0.weight": (1024, 704),
        "classifier.classifier.1.weight": (1000, 1024),
    }.items():
        assert state[key].shape == shape


def test_all_pointwise_convolutions_of_26m_have_four_groups_and_are_mixed():
    model = create_model("mobile_former_26m")
    pointwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert {conv.groups for conv in pointwise} == {4}
    assert len([m for m in model.modules() if isinstance(m, ChannelShuffle)]) == 1 + 2 * 3 + 2 * 5 + 1
    assert not [m for m in create_model("mobile_former_52m").modules() if isinstance(m, ChannelShuffle)]


def test_channel_shuffle_is_that_of_torch():
    x = torch.rand(2, 12, 3, 5)
    assert torch.equal(ChannelShuffle(4)(x), nn.ChannelShuffle(4)(x))


def _reference_attention(query, key, value, heads):
    """One query, head and channel at a time; `(B, N, C)` each."""
    out = torch.zeros(query.shape[0], query.shape[1], value.shape[2], dtype=query.dtype)
    width = query.shape[2] // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        for image in range(query.shape[0]):
            for n in range(query.shape[1]):
                scores = (key[image, :, part] * query[image, n, part]).sum(1) / width**0.5
                weights = scores.exp() / scores.exp().sum()
                out[image, n, part] = (weights[:, None] * value[image, :, part]).sum(0)
    return out


@pytest.fixture
def streams():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 3, 5, generator=generator).double()
    z = torch.randn(2, 4, 16, generator=generator).double()
    return x, z


def test_tokens_read_the_map(streams):
    x, z = streams
    bridge = MobileToFormer(8, 16).double()
    positions = x.flatten(2).transpose(1, 2)
    read = _reference_attention(bridge.q(z), positions, positions, heads=2)
    gate = 2 * ((bridge.alpha[0](z) + 3) / 6).clamp(0, 1)
    expected = bridge.layer_norm(z + bridge.proj(gate * read))
    torch.testing.assert_close(bridge(x, z), expected, rtol=1e-10, atol=1e-10)


def test_tokens_attend_to_themselves(streams):
    _, z = streams
    former = Former(16).double()
    read = _reference_attention(former.q(z), z, z, heads=4)
    z_new = former.layer_norm(z + former.channel_mlp(read))
    expected = former.ffn_norm(z_new + former.ffn(z_new))
    torch.testing.assert_close(former(z), expected, rtol=1e-10, atol=1e-10)


def test_the_map_reads_the_tokens(streams):
    x, z = streams
    bridge = FormerToMobile(8, 16).double()
    read = _reference_attention(x.flatten(2).transpose(1, 2), bridge.k(z), bridge.proj(z), heads=2)
    expected = x + read.transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(bridge(x, z), expected, rtol=1e-10, atol=1e-10)


def test_dynamic_relu_starts_as_relu_and_follows_the_token(streams):
    x, z = streams
    activation = DynamicReLU(8, 16).double()
    nn.init.zeros_(activation.hyper[2].weight)
    nn.init.zeros_(activation.hyper[2].bias)
    assert torch.equal(activation(x, z[:, 0]), x.relu())
    activation.hyper[2].bias.data = torch.tensor([9.0] * 8 + [-9.0] * 8).double()
    assert torch.equal(activation(x, z[:, 0]), torch.maximum(2 * x, -x))


@pytest.mark.parametrize("size", [(64, 64), (97, 33), (33, 160)])
def test_levels_are_at_exact_strides(size):
    model = create_model("mobile_former_52m", num_classes=5).eval()
    with torch.no_grad():
        final, levels = model.forward_intermediates(torch.rand(2, 3, *size))
    for level, info in zip(levels, model.feature_info, strict=True):
        stride = info["reduction"]
        assert level.shape == (2, info["num_chs"], -(-size[0] // stride), -(-size[1] // stride))
    assert [info["reduction"] for info in model.feature_info] == [4, 8, 16, 32]
    assert final.shape == (2, model.num_features, *levels[-1].shape[2:])


def test_images_that_do_not_fit_are_refused():
    model = create_model("mobile_former_26m", num_classes=2)
    with pytest.raises(DataError, match="1 channel"):
        model(torch.rand(1, 1, 64, 64))
    with pytest.raises(DataError, match="31"):
        model.forward_intermediates(torch.rand(1, 3, 64, 31))


def test_intermediates_can_be_chosen_and_stop_early():
    model = create_model("mobile_former_26m").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        final, levels = model.forward_intermediates(images)
        early, chosen = model.forward_intermediates(images, indices=[0, 2], stop_early=True)
        assert torch.equal(final, model.forward_features(images))
    assert torch.equal(early, levels[2])
    assert all(torch.equal(a, b) for a, b in zip(chosen, [levels[0], levels[2]], strict=True))
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_head_with_and_without_classifier_and_pooling():
    model = create_model("mobile_former_52m", num_classes=0).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert model(images).shape == (2, model.head_hidden_size) == (2, 1024)
        model.reset_classifier(0, "")
        assert model(images).shape == (2, model.num_features, 2, 3)
        model.double().reset_classifier(6, "avg")
        assert model(images.double()).shape == (2, 6)
        features = model.forward_features(images.double())
        assert model.forward_head(features, pre_logits=True).shape == (2, 1024)
    assert model.get_classifier().weight.dtype == torch.float64
    assert not model.get_classifier().training
    # the token is the same at every position
    assert torch.equal(features[:, -128:], features[:, -128:, :1, :1].expand(-1, -1, 2, 3))


@pytest.mark.parametrize("name", list_models("mobile_former_*"))
def test_initial_network_has_finite_logits_and_gradients(name):
    model = create_model(name, num_classes=3, in_chans=4).train()
    model(torch.rand(2, 4, 64, 64)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key


def test_stochastic_depth_grows_with_depth():
    model = create_model("mobile_former_52m")
    model.set_drop_path(0.2)
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0, pytest.approx(0.2))


@pytest.mark.parametrize("size", [(12, 16), (11, 13)])
@torch.no_grad()
def test_dilated_blocks_compute_the_same_values_at_more_places(size, randomise):
    rows = Row(block="down", expansion=2, out=12, stride=2), Row(block="flat", expansion=3, out=12)
    token = torch.randn(2, 16).double()

    def convolve(x, *steps):
        for row, step in zip(rows, steps, strict=True):
            block = make_block(row, x.shape[1], step, dim=16, groups=1)
            x = randomise(block).double().eval().convolve(x, token)
        return x

    def step(stride, first, dilation):
        return Reduction(stride=stride, first=first, dilation=dilation)

    x = torch.randn(2, 8, *size).double()
    few, many = convolve(x, step(2, 1, 1), step(1, 1, 1)), convolve(x, step(1, 1, 2), step(1, 2, 2))
    assert many.shape[2:] == size
    torch.testing.assert_close(many[:, :, ::2, ::2], few, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["mobile_former_52m", "mobile_former_96m"])
def test_depthwise_convolutions_beyond_the_output_stride_are_dilated(name):
    model = create_model(name, output_stride=8)
    found = []
    for level in model.levels():
        convs = [conv for block in level for conv in block.modules() if isinstance(conv, nn.Conv2d)]
        found.append([(c.stride[0], c.dilation[0]) for c in convs if c.groups == c.in_channels])
    assert {step for _, step in found[0] + found[1]} == {1}
    assert found[2] == [(1, 1)] + [(1, 2)] * (len(found[2]) - 1)
    assert found[3] == [(1, 2)] + [(1, 4)] * (len(found[3]) - 1)


def test_checkpointing_runs_blocks_again_and_changes_no_gradient(randomise):
    gradients, runs = [], []
    for enable in (False, True):
        model = randomise(create_model("mobile_former_52m", num_classes=3)).double().train()
        model.set_grad_checkpointing(enable)
        counted = [0]
        for module in (model.stem, *model.features):
            module.register_forward_pre_hook(
                lambda *_, counted=counted: counted.__setitem__(0, counted[0] + 1)
            )
        model(torch.linspace(0, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).double()).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        runs.append(counted[0])
    assert runs == [1 + len(model.features), 2 * (1 + len(model.features))]
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-9, atol=1e-12)


def test_entry_states_that_the_weights_have_no_licence():
    entry = get_entry("mobile_former_294m")
    assert entry.weights_licence == "no licence stated (all rights reserved)"
    assert entry.hub is None
    assert (entry.preprocessing.size, entry.preprocessing.interpolation) == (224, "bilinear")
