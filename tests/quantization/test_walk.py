"""Both networks side by side."""

from __future__ import annotations

import torch

from pocketvit.quantization import QuantizationSpec, quantize
from pocketvit.quantization.calibration import samples
from pocketvit.quantization.walk import walk


def test_sees_what_each_operator_reads_in_both_networks(tiny, calibration):
    network = quantize(tiny, QuantizationSpec(method="minmax", weights=4, activations=4), calibration)
    real = {o.name: s for o, s in samples(network, calibration)}
    read = {}
    hooks = [
        o.register_forward_hook(lambda o, inputs, _: read.__setitem__(o.name, inputs))
        for o in network.operators.values()
    ]
    with torch.no_grad():
        network(calibration.images)
    for hook in hooks:
        hook.remove()
    names = []
    for step in walk(network, calibration):
        name = step.operator.name
        names.append(name)
        assert torch.allclose(step.wanted.output, real[name].output, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(step.inputs, read[name], strict=True))
    assert names == list(network.operators)


def test_what_is_done_to_an_operator_is_seen_by_the_next(tiny, calibration):
    steps = walk(tiny, calibration)
    stem = next(steps)
    with torch.no_grad():
        stem.operator.weight.zero_()
        stem.operator.bias.zero_()
    act = next(steps)
    assert not act.inputs[0].any()
    assert act.wanted.inputs[0].any()
