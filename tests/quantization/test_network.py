"""Switching operators, finding them, and who reads what."""

from __future__ import annotations

import pytest
import torch

from pocketvit.core.errors import ConfigError, UnknownNameError
from pocketvit.quantization import QuantizationSpec, quantize


def test_only_the_chosen_operators_are_quantized(tiny, calibration):
    with torch.no_grad():
        wanted = tiny(calibration.images)
        network = quantize(tiny, QuantizationSpec(method="minmax"), calibration)
        with network.only([]):
            assert torch.allclose(network(calibration.images), wanted, atol=1e-3)
        whole = (network(calibration.images) - wanted).abs().mean()
        with network.only([network.operator("head")]):
            part = (network(calibration.images) - wanted).abs().mean()
    assert 0 < part < whole


def test_patterns_match_names_modules_and_what_lies_inside(tiny):
    assert [o.name for o in tiny.matching("stem")] == ["stem"]
    assert {o.module for o in tiny.matching("attention")} == {
        "attention",
        "attention.norm",
        "attention.qkv",
        "attention.proj",
    }
    assert {o.kind for o in tiny.matching("*/matmul*")} == {"matmul"}
    with pytest.raises(ConfigError, match="No operator is called 'stages'"):
        tiny.matching("stages")


def test_unknown_operators_get_a_suggestion(tiny):
    with pytest.raises(UnknownNameError, match="depthwise"):
        tiny.operator("depthwize")


def test_only_reader(tiny):
    reader = tiny.only_reader(tiny.operator("stem"))
    assert reader is not None
    assert reader.kind == "activation"
    assert tiny.only_reader(reader) is None  # two convolutions read it


def test_readers_of_one_source(tiny):
    assert set(tiny.readers_of(("depthwise", 0))) == {("depthwise", 0), ("gate", 0)}
