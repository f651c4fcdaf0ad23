import re
from itertools import pairwise

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from pocketvit.backbones import get_entry, list_models
from pocketvit.core.errors import DataError

SMALLEST = ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"]
ARCHITECTURES = [
    name
    for name in list_models()
    if "timm" not in get_entry(name).code_licence and not re.search("_in22k|_384$", name)
]


@pytest.fixture(scope="module", params=SMALLEST)
def network(request):
    torch.manual_seed(0)
    return get_entry(request.param).build(5, 3).eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_takes_another_classifier(name):
    with torch.device("meta"):
        model = get_entry(name).build(10, 3)
        images = torch.empty(2, 3, 64, 64)
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
@pytest.mark.parametrize("coarse", [False, True])
def test_parameters_are_grouped_by_depth(name, coarse):
    model = get_entry(name).build(3, 3)
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    assert {group for key, group in groups.items() if key.startswith(("stem.", "patch_embed."))} == {0}
    depths = [[groups[f"{info['module']}.{key}"] for key, _ in named] for info, named in by_level(model)]
    for shallow, deep in pairwise(depths):
        assert max(shallow) < min(deep)
    last = max(groups.values())
    assert {group for key, group in groups.items() if key.startswith("head")} == {last}


def by_level(model):
    for info in model.feature_info:
        yield info, model.get_submodule(info["module"]).named_parameters()


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs"])
def test_parameters_are_grouped_as_timm_groups_them(name):
    ours, theirs = get_entry(name).build(3, 3), timm.create_model(name, num_classes=3)
    grouped = [
        group_parameters(model, model.group_matcher(coarse=False), reverse=True) for model in (ours, theirs)
    ]
    assert grouped[0] == grouped[1]


@pytest.mark.parametrize("name", SMALLEST)
def test_learning_rates_can_decay_by_layer(name):
    model = get_entry(name).build(3, 3)
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    counted = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(counted) == sorted(id(parameter) for parameter in model.parameters())
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    first, *_, last = model.parameters()
    assert scales[id(last)] == 1
    assert scales[id(first)] == min(scales.values()) < 0.1


def test_checkpointed_gradients_are_the_same(network):
    network.train()
    images = torch.rand(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        network.set_grad_checkpointing(enable)
        network.zero_grad()
        network(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    network.set_grad_checkpointing(False)
    network.eval()
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-4, atol=1e-5)


def test_checkpointing_keeps_less_for_the_backward_pass(network):
    def saved(enable):
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        network.set_grad_checkpointing(enable)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(torch.rand(1, 3, 64, 64))
        network.set_grad_checkpointing(False)
        return kept

    assert saved(True) < 0.3 * saved(False)


@pytest.mark.parametrize("name", ["swiftformer_xs", "cas_vit_xs"])
def test_symbolic_trace(name):
    model = get_entry(name).build(3, 3).eval()
    traced = torch.fx.symbolic_trace(model)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(traced(images), model(images))
    with pytest.raises(DataError, match="1 channel"):
        traced(torch.rand(1, 1, 64, 64))
