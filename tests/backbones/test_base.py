import pytest
import torch
from torch import nn

from pocketvit.backbones import get_entry, list_models

SMALLEST = ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"]
OURS = [name for name in list_models() if "timm" not in get_entry(name).code_licence]


@pytest.fixture(scope="module", params=SMALLEST)
def network(request):
    torch.manual_seed(0)
    return get_entry(request.param).build(5, 3).eval()


@pytest.mark.parametrize("name", OURS)
def test_every_entry_forward_backward_and_reset(name):
    with torch.device("meta"):
        model = get_entry(name).build(10, 3)
        images = torch.empty(2, 3, 64, 64)
    logits = model(images)
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    model.reset_classifier(4)
    assert model(images).shape == (2, 4)
    assert model.num_classes == 4
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert model.no_weight_decay() == set()


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("in_chans", [1, 4])
def test_state_dict_round_trip(name, in_chans, randomise):
    build = get_entry(name).build
    first, second = randomise(build(3, in_chans)).eval(), build(3, in_chans).eval()
    second.load_state_dict(first.state_dict(), strict=True)
    images = torch.rand(2, in_chans, 64, 64)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))


def test_forward_is_features_then_head(network):
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        features = network.forward_features(images)
        assert features.shape == (2, network.num_features, 2, 4)
        assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)
        assert torch.equal(network.forward_head(features), network(images))


def test_intermediates_are_at_strides_4_8_16_32(network):
    images = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        final, features = network.forward_intermediates(images)
        assert torch.equal(final, network.forward_features(images))
    for level, info in zip(features, network.feature_info, strict=True):
        stride = info["reduction"]
        assert level.shape == (1, info["num_chs"], 64 // stride, 128 // stride)
    assert [info["reduction"] for info in network.feature_info] == [4, 8, 16, 32]


def test_feature_info_names_the_module_of_each_level(network):
    seen = []
    hooks = [
        network.get_submodule(info["module"]).register_forward_hook(lambda _m, _i, out: seen.append(out))
        for info in network.feature_info
    ]
    with torch.no_grad():
        levels = network.forward_intermediates(torch.rand(1, 3, 64, 64), intermediates_only=True)
    for hook in hooks:
        hook.remove()
    assert all(torch.equal(a, b) for a, b in zip(seen, levels, strict=True))


def test_intermediates_can_be_chosen(network):
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        levels = network.forward_intermediates(images, intermediates_only=True)
        last_two = network.forward_intermediates(images, indices=2, intermediates_only=True)
        early = network.forward_intermediates(images, indices=[0, 2], stop_early=True)
        normalised = network.forward_intermediates(images, norm=True, intermediates_only=True)
        assert torch.equal(normalised[-1], network.forward_features(images))
    assert all(torch.equal(a, b) for a, b in zip(last_two, levels[2:], strict=True))
    assert torch.equal(early[0], levels[2])
    assert all(torch.equal(a, b) for a, b in zip(early[1], [levels[0], levels[2]], strict=True))
    with pytest.raises(ValueError, match="NCHW"):
        network.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("name", SMALLEST)
def test_without_classifier_or_pooling(name):
    model = get_entry(name).build(0, 3).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert model(images).shape == (2, model.num_features)
        model.reset_classifier(0, "")
        assert model(images).shape == (2, model.num_features, 2, 2)
        model.reset_classifier(6, "avg")
        assert model(images).shape == (2, 6)
    with pytest.raises(ValueError, match="max"):
        model.reset_classifier(6, "max")


@pytest.mark.parametrize("name", SMALLEST)
def test_reset_keeps_type_and_mode(name):
    model = get_entry(name).build(2, 3).double().eval()
    model.reset_classifier(3)
    classifiers = model.get_classifier()
    for classifier in classifiers if isinstance(classifiers, tuple) else (classifiers,):
        assert isinstance(classifier, nn.Linear)
        assert classifier.weight.shape == (3, model.num_features)
        assert classifier.weight.dtype == torch.float64
        assert not classifier.training


@pytest.mark.parametrize("name", SMALLEST)
def test_torch_export_with_any_batch_size(name):
    model = get_entry(name).build(3, 3).eval()
    images = torch.rand(2, 3, 64, 64)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = torch.rand(5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), model(more), rtol=1e-4, atol=1e-5)
