"""Cells of the accuracy table are of one network, however many calls filled it."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pocketvit.data import open_images


def trained(seed: int) -> SimpleNamespace:
    torch.manual_seed(seed)
    labels = torch.arange(8) % 2
    return SimpleNamespace(
        name="small",
        model=nn.Linear(3, 2),
        logits=torch.eye(2)[labels],
        labels=labels,
        data=SimpleNamespace(train=range(5)),
        split="halves",
        graph=SimpleNamespace(operators={}),
    )


def test_cells_of_another_network_are_never_mixed_in() -> None:
    script = import_module("quantization")
    found = {"networks": {}, "cells": []}
    script.begin_network(found, trained(0), replace=False)
    found["cells"] = [{"model": "small", "method": "pocket"}, {"model": "other", "method": "pocket"}]
    script.begin_network(found, trained(0), replace=False)
    assert len(found["cells"]) == 2, "the same weights again"
    before = found["networks"]["small"]
    with pytest.raises(SystemExit, match=r"1 cells of small were measured on a network of 100\.00%"):
        script.begin_network(found, trained(1), replace=False)
    assert found["networks"]["small"] is before
    script.begin_network(found, trained(1), replace=True)
    assert [cell["model"] for cell in found["cells"]] == ["other"]
    assert found["networks"]["small"]["weights"] != before["weights"]


def test_cells_without_a_fingerprint_belong_to_a_network_that_is_lost() -> None:
    script = import_module("quantization")
    found = {"networks": {"small": {"top1": {"value": 0.5}}}, "cells": [{"model": "small"}]}
    with pytest.raises(SystemExit, match="--replace"):
        script.begin_network(found, trained(0), replace=False)


def test_cells_of_earlier_code_are_measured_again() -> None:
    script = import_module("quantization")
    cell = {"model": "a", "method": "pocket", "label": "W8A8", "scope": "full", "draw": 0}
    assert script.has([{**cell, "drop": 0.1}], cell)
    assert not script.has([{**cell, "draw": 1}], cell)
    assert not script.has([{**cell, "drop": 0.1, "outdated": "why"}], cell)


def test_a_second_look_is_at_what_is_ahead_and_at_pocket_there() -> None:
    script = import_module("quantization")
    lead = script.Rival("a", "W8A8", "full", "omse", lead=None)
    cell = {"model": "a", "method": "omse", "label": "W8A8", "scope": "full", "draw": 0}
    assert script.is_looked_at(cell, [lead])
    assert script.is_looked_at({**cell, "method": "pocket", "draw": 2}, [lead])
    for other in ({"method": "minmax"}, {"scope": "partial"}, {"model": "b", "method": "pocket"}):
        assert not script.is_looked_at({**cell, **other}, [lead])


def test_a_second_look_is_on_images_that_the_first_was_not_on() -> None:
    script, whole = import_module("quantization"), open_images("digits", check="none").val
    part = whole.subset(range(0, len(whole), 3))
    rest = script.others(whole, part)
    first, second, both = ({split.key(i) for i in range(len(split))} for split in (part, rest, whole))
    assert not first & second
    assert first | second == both
    assert len(rest) == len(second)


def test_torch_is_held_to_a_kind_of_kernels_by_starting_again(monkeypatch) -> None:
    script = import_module("quantization")

    def start(program: str, arguments: list[str]) -> None:
        raise SystemExit(" ".join(arguments[1:]))

    monkeypatch.setattr(script.os, "environ", {"PATH": "/bin"})
    monkeypatch.setattr(script.os, "execv", start)
    monkeypatch.setattr(script.sys, "argv", ["quantization.py", "--data", "cifar"])
    monkeypatch.setattr(script.platform, "machine", lambda: "aarch64")
    script.hold_torch_to(script.AVX2)
    assert script.os.environ == {"PATH": "/bin"}, "no such kernels there"
    monkeypatch.setattr(script.platform, "machine", lambda: "x86_64")
    with pytest.raises(SystemExit, match=r"quantization\.py --data cifar"):
        script.hold_torch_to(script.AVX2)
    assert script.os.environ == {"PATH": "/bin", **script.AVX2}
    script.hold_torch_to(script.AVX2)
    assert script.os.environ == {"PATH": "/bin"}, "the second time it is held, and others are not to be"
