import shutil

import pytest

from pocketvit.cli.main import main
from pocketvit.core.rundir import RunDirectory


@pytest.fixture
def cli(capfd, monkeypatch):
    """Run a command line; returns (exit code, standard output, standard error)."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*words):
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a trained run, which may be changed."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run.path, copy)
    return RunDirectory(copy)


@pytest.fixture
def quantize(cli, run):
    """`pocketvit quantize` of that run by the quickest method."""
    return lambda *words: cli("quantize", run.path, "--method", "minmax", "--no-diagnose", *words)
