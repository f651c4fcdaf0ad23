"""The settings are there in time, and those of the user stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pocketvit.core.threads import SPINS, sleep_soon

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    monkeypatch.setattr(os, "environ", environment)


def asked_for() -> dict[str, str]:
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_threads_sleep_soon() -> None:
    sleep_soon()
    assert asked_for() == {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize("setting", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_asked_for_stays(setting: dict[str, str]) -> None:
    os.environ.update(setting)
    sleep_soon()
    assert asked_for() == setting


def test_the_command_line_says_so_before_torch_is_loaded() -> None:
    program = """
import builtins, os
load = builtins.__import__
def watched(name, *rest, **more):
    if name == "torch" and "GOMP_SPINCOUNT" not in os.environ:
        raise SystemExit("torch was loaded before")
    return load(name, *rest, **more)
builtins.__import__ = watched
from pocketvit.cli.main import main
code = main(["models", "mobilevit_xxs"])
import sys
assert "torch" in sys.modules, "else this test says nothing"
sys.exit(code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
