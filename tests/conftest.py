"""Fixtures for tests that go through the whole job, and how hypothesis runs."""

from __future__ import annotations

import fcntl
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from pocketvit.core.rundir import RunDirectory
from pocketvit.pipeline.build import build
from pocketvit.pipeline.config import BuildConfig

# A busy machine must not fail a test, and continuous integration must give the same answer twice.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "here")


@pytest.fixture(scope="session", autouse=True)
def _operators_of_the_exporter_are_read_once():
    """torch.onnx parses the sources of all its operators for each export, for about a second; here once."""
    read = ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(read)))
        yield


def small_job(out: Path, **changes) -> BuildConfig:
    """The whole job in seconds: few digits, few pixels, one epoch."""
    settings = {
        "data": "digits",
        "out": out,
        "limit": 160,
        "model": "mobilevit_xxs",
        "resolution": 32,
        "pretrained": "none",
        "settings": {"epochs": 1, "warmup_epochs": 0, "batch_size": 32, "workers": 0},
        "threads": (1,),
    }
    return BuildConfig(**{**settings, **changes})


@pytest.fixture(scope="session", name="small_job")
def small_job_fixture():
    return small_job


def _built_once(name: str, tmp_path_factory, **changes) -> RunDirectory:
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = RunDirectory(shared / name)
        if not run.report.exists():
            build(small_job(run.path, **changes))
    return run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> RunDirectory:
    """One finished run, built once for all test processes; tests must not change it."""
    return _built_once("finished-run", tmp_path_factory)


@pytest.fixture(scope="session")
def finished_plain_run(tmp_path_factory) -> RunDirectory:
    """The same of a network of a few convolutions, for tests that export again and again."""
    return _built_once("finished-plain-run", tmp_path_factory, model="timm/test_resnet")


def _kind(module: nn.Module) -> list[tuple]:
    """What a module is made of, whatever its widths and wherever it stands."""

    def numbers(part: nn.Module) -> tuple:
        if isinstance(part, nn.Conv2d):
            return part.kernel_size, part.stride, part.dilation, min(part.groups, 2), part.bias is None
        return ()

    return [(name, type(part), numbers(part)) for name, part in module.named_modules()]


def _rows(module: nn.Module) -> list[nn.Sequential | nn.ModuleList]:
    return [part for part in module.modules() if isinstance(part, nn.Sequential | nn.ModuleList)]


def _shapes(value) -> list[torch.Size]:
    if isinstance(value, tuple | list):
        return [shape for part in value for shape in _shapes(part)]
    return [value.shape] if isinstance(value, torch.Tensor) else []


def _shape_keeping(model: nn.Module, size: int) -> set[nn.Module]:
    """The blocks, in rows, that return what they are given in shape: without them the network still runs."""
    kept = set()

    def look(module: nn.Module, args: tuple, result) -> None:
        if _shapes(args) == _shapes(result):
            kept.add(module)

    rows = _rows(model)
    blocks = {block for row in rows for block in row if block.state_dict() and list(block.children())}
    hooks = [block.register_forward_hook(look) for block in blocks.difference(rows)]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, dtype=next(model.parameters()).dtype))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return kept


@pytest.fixture(scope="session")
def shallow():
    """Make a network shallow: of blocks of a kind that keep the shape of what passes, the first stays.

    Tracing takes seconds for each block, and a second one of a kind is traced like the first. Blocks within a
    block are counted for themselves: no attention block is without a layer.
    """

    def shorten(model: nn.Module, size: int = 64) -> nn.Module:
        removable = _shape_keeping(model, size)

        def thin(row: nn.Sequential | nn.ModuleList, seen: list) -> None:
            again = []
            for i, block in enumerate(row):
                if block not in removable:
                    continue
                if (kind := _kind(block)) in seen:
                    again.append(i)
                else:
                    seen.append(kind)
            for i in reversed(again):
                del row[i]

        rows = _rows(model)
        within = {row for block in removable for row in _rows(block)}
        for row in reversed([row for row in rows if row in within]):
            thin(row, [])
        seen: list = []
        for row in [row for row in rows if row not in within]:
            thin(row, seen)
        return model

    return shorten


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of three classes of twelve small pictures each, told apart by colour."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for channel, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = random.integers(0, 80, (40, 48, 3), dtype=np.uint8)
            pixels[..., 2 - channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder
