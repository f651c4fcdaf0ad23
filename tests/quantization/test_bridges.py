"""Which operators a backbone's bridge blocks hold, and the way from one of them to the block's end."""

from __future__ import annotations

import fnmatch

import pytest
import torch
from torch import nn

from pocketvit import create_model, list_models
from pocketvit.core.errors import ConfigError
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.quantization.bridges import Remainder, bridges, image_rows
from pocketvit.quantization.calibration import Calibration, samples
from pocketvit.quantization.capture import capture

QUERY_KEY_VALUE = ("query", "key", "value")
V2_ATTENTION = "stages.2.blocks.4.token_mixer"

# (model, blocks, first block's first operator, module and last parts of the names of what leaves it)
FAMILIES = [
    ("mobilevit_xxs", 3, "stages.2.1.conv_1x1", "stages.2.1.transformer.0.attn", QUERY_KEY_VALUE),
    ("mobilevitv2_050", 3, "stages.2.1.conv_1x1", "stages.2.1.transformer.0.attn", ("out_proj",)),
    (
        "swiftformer_xs",
        4,
        "stages.0.blocks.2.local_representation.dwconv",
        "stages.0.blocks.2.attn",
        ("out",),
    ),
    ("cas_vit_xs", 4, "network.0.0.local_perception.network.0", "network.0.0.attn", QUERY_KEY_VALUE),
    ("efficientformer_l1", 1, "stages.3.blocks.2.mlp.fc1", "stages.3.blocks.4.token_mixer", ("qkv",)),
    (
        "efficientformerv2_s0",
        2,
        "stages.2.blocks.3.mlp.fc2.conv",
        V2_ATTENTION,
        ("v.conv", "q.conv", "k.conv"),
    ),
    ("mobile_former_26m", 17, "features.1.local_global.q", "features.1.local_global", ("layer_norm/norm",)),
]


@pytest.mark.parametrize(
    ("name", "count", "first", "module", "parts"), FAMILIES, ids=[r[0] for r in FAMILIES]
)
def test_bridge_blocks_of_every_family(
    name: str, count: int, first: str, module: str, parts: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    network = prepare_for_quantization(create_model(name, num_classes=4), size=64)
    found = bridges(network)
    assert len(found) == count
    assert found[0].operators[0].name == first
    assert [operator.name for operator in found[0].outputs] == [f"{module}.{part}" for part in parts]
    everything = [operator for bridge in found for operator in bridge.operators]
    assert len(everything) == len(set(everything)), "no operator is in two blocks"

    calibration = Calibration(torch.rand(2, 3, 64, 64))
    bridge = found[-1]
    float_outputs = {o.name: s for o, s in samples(network, calibration, bridge.operators)}
    start = bridge.operators[0]
    rest = Remainder(network, calibration, start=start, ends=bridge.outputs)
    with torch.no_grad():
        both = rest(float_outputs[start.name].output, slice(0, 2))
        second = rest(image_rows(float_outputs[start.name].output, slice(1, 2), 2), slice(1, 2))
    for operator, of_both, of_second in zip(bridge.outputs, both, second, strict=True):
        wanted = float_outputs[operator.name].output
        torch.testing.assert_close(of_both, wanted)
        torch.testing.assert_close(of_second, image_rows(wanted, slice(1, 2), 2), rtol=1e-4, atol=1e-5)


def test_another_mixer_has_bridge_blocks_too() -> None:
    model = create_model("mobilevit_xxs", num_classes=4, mixer="additive")
    assert [len(b.outputs) for b in bridges(capture(model, size=64))] == [1, 1, 1]


def test_the_rest_sees_a_changed_output_as_the_network_does() -> None:
    torch.manual_seed(0)
    network = capture(create_model("mobilevit_xxs", num_classes=4), size=64)
    calibration = Calibration(torch.rand(2, 3, 64, 64))
    bridge = bridges(network)[1]
    start = bridge.operators[0]
    rest = Remainder(network, calibration, start=start, ends=bridge.outputs)
    start_output: list[torch.Tensor] = []
    ends: dict[str, torch.Tensor] = {}
    handles = [start.register_forward_hook(lambda *a: start_output.append(a[2] * 1.1) or start_output[-1])]
    handles += [
        end.register_forward_hook(lambda module, _, out: ends.update({module.name: out}))
        for end in bridge.outputs
    ]
    with torch.no_grad():
        network(calibration.images)
        for handle in handles:
            handle.remove()
        found = rest(start_output[0], slice(0, 2))
    for operator, output in zip(bridge.outputs, found, strict=True):
        torch.testing.assert_close(output, ends[operator.name])


def test_a_network_without_a_backbone_has_no_bridge_blocks() -> None:
    assert bridges(capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), size=8)) == []


def test_a_bridge_block_that_is_not_there_is_named() -> None:
    network = capture(nn.Sequential(nn.Conv2d(3, 4, 1)), size=8)
    network.bridge_blocks = (("stages.7",),)
    with pytest.raises(ConfigError, match=r"stages\.7"):
        bridges(network)


def test_rows_of_images() -> None:
    rows = torch.arange(12).reshape(6, 2)
    torch.testing.assert_close(image_rows(rows, slice(1, 2), 3), rows[2:4])
    with pytest.raises(ValueError, match="6 rows"):
        image_rows(rows, slice(0, 1), 4)


@pytest.mark.parametrize(
    "name", list_models("*former*") + list_models("mobilevit*") + list_models("cas_vit*")
)
def test_every_variant_names_modules_that_it_has(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    modules = [module for module, _ in model.named_modules()]
    blocks = getattr(model, "bridge_blocks", ())
    assert blocks, name
    for block in blocks:
        for pattern in block:
            assert fnmatch.filter(modules, pattern), f"{name}: {pattern}"
