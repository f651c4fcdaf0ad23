"""Fixtures for tests that go through the whole job, and how hypothesis runs.

Fixtures import what they need: the process that hands out tests to others reads this file too, and need not
wait ten seconds for torch.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from pocketvit.core.rundir import RunDirectory
    from pocketvit.pipeline.config import BuildConfig

# A busy machine must not fail a test, and continuous integration must give the same answer twice.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "here")


@pytest.fixture(scope="session", autouse=True)
def _nobody_listens_to_the_tracer():
    """pytest listens to all loggers that do not propagate, and torch prints graphs where somebody listens."""
    tracer = logging.getLogger("torch.__trace")
    tracer.propagate = True
    tracer.handlers.clear()


@pytest.fixture(scope="session", autouse=True)
def _operators_of_the_exporter_are_read_once():
    """torch.onnx parses the sources of all its operators for each export, for about a second; here once.

    Nor are the operators of C++ named again for each namespace: tests register none.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = ONNXRegistry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(read)))
        patch.setattr(utils, "_materialize_cpp_cia_ops", cache(utils._materialize_cpp_cia_ops))
        yield


def small_job(out: Path, **changes) -> BuildConfig:
    """The whole job in seconds: few digits, few pixels, one epoch."""
    from pocketvit.pipeline.config import BuildConfig

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
    from pocketvit.core.rundir import RunDirectory
    from pocketvit.pipeline.build import build

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
    from plain_network import NAME

    return _built_once("finished-plain-run", tmp_path_factory, model=NAME)


@pytest.fixture(scope="session")
def shallow():
    from shallow_networks import shorten

    return shorten


@pytest.fixture
def fork(tmp_path):
    """Start `work` in a copy of this process, where nothing is left to import.

    Returns its process number, and what waits for its end: (exit status, or minus the signal that ended it;
    its standard error).
    """
    import torch

    def start(work: Callable[[], int]) -> tuple[int, Callable[[], tuple[int, str]]]:
        errors = tmp_path / "errors.txt"
        errors.touch()  # the child may be killed before it gets there
        child = os.fork()
        if not child:
            status, sys.stderr = 70, errors.open("w", buffering=1)
            try:
                torch.set_num_threads(1)  # the threads of the parent are not here
                status = work()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)  # whatever happens, no second process goes on with the tests

        def wait() -> tuple[int, str]:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors.read_text()

        return child, wait

    return start


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
