from __future__ import annotations

import pytest
import torch

from pocketvit.deployment.runtime_rounding import rounded_as


@pytest.mark.parametrize("scope", ["partial", "full"])
def test_openvino_adds_the_zero_point_before_it_rounds(calibrated, small_images, scope) -> None:
    network = calibrated(scope=scope, runtime="openvino")
    rounded = rounded_as("openvino", network)
    exact = [network.double(), rounded_as("openvino", network).double()]
    torch.testing.assert_close(*(n(small_images.double()) for n in exact), rtol=0, atol=1e-12)
    for operator in rounded.operators.values():
        if operator.weight_quantizer is None or operator.input_quantizers[0] is None:
            continue
        grid, before = operator.input_quantizers[0], network.operator(operator.name).input_quantizers[0]
        zero = float(grid.zero_point) + (128 if grid.qmin < 0 else 0)
        x = torch.linspace(float(grid.low), float(grid.high), 4001)
        whole = (x.numpy() / grid.scale.numpy() + zero).round() - zero
        want = torch.from_numpy(whole * grid.scale.numpy())
        torch.testing.assert_close(grid(x), want, rtol=0, atol=1e-6)
        close = (grid(x) - before.float()(x)).abs()
        assert close.max() <= grid.scale * 1.01, "by no more than a step"


def test_onnxruntime_rounds_as_the_simulation_does(calibrated) -> None:
    network = calibrated(runtime="onnxruntime")
    assert rounded_as("onnxruntime", network) is network


def test_the_network_itself_is_left_alone(calibrated) -> None:
    network = calibrated(runtime="openvino")
    kinds = [type(q) for o in network.operators.values() for q in o.input_quantizers]
    rounded = rounded_as("openvino", network)
    assert kinds == [type(q) for o in network.operators.values() for q in o.input_quantizers]
    assert kinds != [type(q) for o in rounded.operators.values() for q in o.input_quantizers]
