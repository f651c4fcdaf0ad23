from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.drop import DropPath
from timm.models import efficientformer as timm_v1
from timm.models import efficientformer_v2 as timm_v2
from torch.nn import functional as F

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.backbones.efficientformer import DownsamplingAttention, MapAttention, TokenAttention
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.core.errors import ConfigError

NAMES = list_models("efficientformer*")
QUICK = ["efficientformer_l1", "efficientformerv2_s0"]
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES]
)


@pytest.fixture
def pair(randomise):
    """Our network and timm's with the same weights, in double precision."""

    def make(name, **options):
        theirs = randomise(timm.create_model(name, **options)).double().eval()
        ours = create_model(name, **options).double().eval()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        return SimpleNamespace(ours=ours, theirs=theirs)

    return make


def _images(size=224, batch=1, in_chans=3):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, in_chans, size, size, generator=generator, dtype=torch.float64)


@each
def test_is_timms_at_224(name, pair):
    networks, images = pair(name, num_classes=7, in_chans=2), _images(in_chans=2)
    with torch.no_grad():
        expected = networks.theirs(images)
        torch.testing.assert_close(networks.ours(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("name", QUICK)
def test_features_are_timms_at_224(name, pair):
    networks, images = pair(name), _images()
    with torch.no_grad():
        levels = networks.ours.forward_intermediates(images, intermediates_only=True)
        expected = networks.theirs.forward_intermediates(images, intermediates_only=True)
    for ours, theirs in zip(levels, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", QUICK)
def test_gradients_are_timms_at_224(name, pair):
    networks, images = pair(name, num_classes=3), _images(batch=2)
    for network in (networks.ours, networks.theirs):
        network.train()(images).square().sum().backward()
    theirs = dict(networks.theirs.named_parameters())
    for key, parameter in networks.ours.named_parameters():
        scale = float(theirs[key].grad.abs().max())
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-7, atol=1e-9 * max(scale, 1))


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_timms_names(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(name)
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.no_weight_decay() == theirs.no_weight_decay() != set()
    assert ours.feature_info == theirs.feature_info
    assert [type(module) for module in ours.get_classifier()] == [torch.nn.Linear] * 2


@pytest.mark.parametrize("name", QUICK)
def test_timms_file_loads_as_published_weights(name, pair, tmp_path):
    networks = pair(name, num_classes=7)
    save_file(networks.theirs.float().state_dict(), tmp_path / "timm.safetensors")
    fresh = create_model(name, num_classes=7).eval()
    report = load_pretrained(fresh, get_entry(name), tmp_path / "timm.safetensors")
    assert report.used
    assert not report.missing
    assert not report.unexpected
    with torch.no_grad():
        assert torch.equal(fresh(_images().float()), networks.ours.float()(_images().float()))


def _attend(q, k, v, biases, scale):
    """`(heads, d, N)` each, and a function of the head and two positions; one pair at a time."""
    heads, _, queries = q.shape
    scores = torch.stack(
        [
            torch.stack(
                [
                    torch.stack(
                        [scale * q[h, :, i] @ k[h, :, j] + biases[h, i, j] for j in range(k.shape[2])]
                    )
                    for i in range(queries)
                ]
            )
            for h in range(heads)
        ]
    )
    return scores, v


def _weights(scores):
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


@torch.no_grad()
def test_token_attention_is_its_formula_on_an_oblong_map(randomise):
    ours = TokenAttention(randomise(timm_v1.Attention(12, key_dim=4, num_heads=2, attn_ratio=2))).double()
    x = torch.rand(1, 15, 12, dtype=torch.float64)
    q, k, v = ours.qkv(x)[0].T.unflatten(0, (2, 16)).split([4, 4, 8], dim=1)
    scores, v = _attend(q, k, v, ours.biases((5, 3)), 4**-0.5)
    read = torch.einsum("hij,hdj->ihd", _weights(scores), v).flatten(1)
    torch.testing.assert_close(ours(x, (5, 3))[0], ours.proj(read), rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("stride", [None, 2])
def test_map_attention_is_its_formula_on_an_odd_map(stride, randomise):
    theirs = timm_v2.Attention2d(8, key_dim=4, num_heads=2, attn_ratio=2, resolution=8, stride=stride)
    ours = MapAttention(randomise(theirs)).double().eval()
    x = torch.rand(1, 8, 5, 7, dtype=torch.float64)
    small = x if stride is None else ours.stride_conv(x)
    H, W = small.shape[2:]
    assert small.shape[2:] == torch.Size((5, 7) if stride is None else (3, 4))
    value = ours.v(small)
    q, k, v = (y[0].reshape(2, -1, H * W) for y in (ours.q(small), ours.k(small), value))
    scores, v = _attend(q, k, v, ours.biases((H, W)), 4**-0.5)
    first, second = (
        (talk.weight.flatten(1), talk.bias[:, None, None])
        for talk in (ours.talking_head1, ours.talking_head2)
    )
    weights = torch.einsum("gh,hij->gij", first[0], scores) + first[1]
    weights = torch.einsum("gh,hij->gij", second[0], _weights(weights)) + second[1]
    read = torch.einsum("hij,hdj->hdi", weights, v).reshape(1, -1, H, W) + ours.v_local(value)
    if stride == 2:
        read = F.interpolate(read, size=(2 * H, 2 * W), mode="bilinear")[:, :, :5, :7]
    expected = ours.proj(F.gelu(read))
    assert expected.shape == x.shape
    torch.testing.assert_close(ours(x), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_downsampling_attention_is_its_formula_on_an_odd_map(randomise):
    theirs = timm_v2.Attention2dDownsample(8, key_dim=4, num_heads=2, attn_ratio=2, resolution=6, out_dim=10)
    ours = DownsamplingAttention(randomise(theirs)).double().eval()
    x = torch.rand(1, 8, 5, 7, dtype=torch.float64)
    q = ours.q.proj(ours.q.local(x) + x[:, :, ::2, ::2])[0].reshape(2, 4, 12)
    k, v = (y[0].reshape(2, -1, 35) for y in (ours.k(x), ours.v(x)))
    scores, v = _attend(q, k, v, ours.biases((5, 7)), 4**-0.5)
    read = torch.einsum("hij,hdj->hdi", _weights(scores), v).reshape(1, -1, 3, 4)
    expected = ours.proj(F.gelu(read + ours.v_local(ours.v(x))))
    assert expected.shape == (1, 10, 3, 4)
    torch.testing.assert_close(ours(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", QUICK)
def test_biases_follow_the_size_of_each_image(name, randomise):
    model = randomise(create_model(name, num_classes=3)).double().eval()
    sizes = [(64, 96), (224, 224), (97, 65)]
    images = [torch.rand(1, 3, *size, dtype=torch.float64) for size in sizes]
    with torch.no_grad():
        first = [model(image) for image in images]
        again = [model(image) for image in reversed(images)]
    for logits, same in zip(first, reversed(again), strict=True):
        assert torch.equal(logits, same)


@pytest.mark.parametrize("name", QUICK)
def test_checkpointing_changes_no_gradient(name, randomise):
    gradients = []
    for enable in (False, True):
        model = randomise(create_model(name, num_classes=3)).double().train()
        model.set_grad_checkpointing(enable)
        model(_images(64, batch=2)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_reaches_every_block(name):
    with torch.device("meta"):
        model = create_model(name)
        untouched = sorted(
            {m.drop_prob for m in timm.create_model(name).modules() if isinstance(m, DropPath)}
        )
    drops = [module for module in model.modules() if isinstance(module, DropPath)]
    assert {drop.drop_prob for drop in drops} - {0.0} == set(untouched)
    model.set_drop_path(0.2)
    blocks = sum(key.endswith("ls2.gamma") for key in model.state_dict())
    mixing = sum(key.endswith("ls1.gamma") for key in model.state_dict())
    assert len(drops) == blocks + mixing
    assert max(drop.drop_prob for drop in drops) == pytest.approx(0.2)


def test_two_classifiers():
    model = create_model("efficientformerv2_s0", num_classes=5).train()
    images = torch.rand(2, 3, 64, 64)
    assert model(images).shape == (2, 5)
    model.set_distilled_training()
    first, second = model(images)
    assert first.shape == second.shape == (2, 5)
    model.reset_classifier(0)
    assert model.eval()(images).shape == (2, model.num_features)


def test_options_that_do_not_fit():
    with pytest.raises(ConfigError, match="efficientformer_l1' cannot have an output stride of 16"):
        create_model("efficientformer_l1", output_stride=16)
    assert create_model("efficientformerv2_s0", official_resize=True, num_classes=2).num_classes == 2


def test_timms_own_is_still_there():
    assert type(create_model("timm/efficientformer_l1")) is timm_v1.EfficientFormer
