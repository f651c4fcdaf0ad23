"""Fixtures for tests that go through the whole job, and how hypothesis runs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from torch import nn

from pocketvit.core.rundir import RunDirectory
from pocketvit.pipeline.build import build
from pocketvit.pipeline.config import BuildConfig

# A busy machine must not fail a test, and continuous integration must give the same answer twice.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "here")


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


def _layout(module: nn.Module) -> list[tuple]:
    modules = [(name, type(part)) for name, part in module.named_modules()]
    return modules + [(name, tensor.shape) for name, tensor in module.state_dict().items()]


@pytest.fixture(scope="session")
def shallow():
    """Make a network shallow: of blocks in a row that differ in nothing but their weights, the first stays.

    Tracing takes seconds for each block, and a second one of a kind is traced like the first.
    """

    def shorten(model: nn.Module) -> nn.Module:
        for row in [m for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]:
            blocks = list(row)
            for i in reversed(range(1, len(blocks))):
                if blocks[i].state_dict() and _layout(blocks[i]) == _layout(blocks[i - 1]):
                    del row[i]
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
