import copy
import hashlib
import shutil

import pytest

from pocketvit.cli.main import main
from pocketvit.core.rundir import RunDirectory
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.pipeline import quantize as quantize_pipeline


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


@pytest.fixture(scope="session")
def _prepared():
    """Networks by the sizes and weights that they were prepared from."""
    return {}


@pytest.fixture(autouse=True)
def _each_network_is_prepared_once(_prepared, monkeypatch):
    """Tracing a network takes ten seconds, and most tests here quantize the same."""

    def prepare(model, *, size):
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        key = size, type(model), hashlib.sha256(weights).hexdigest()
        if key not in _prepared:
            _prepared[key] = prepare_for_quantization(model, size=size)
        return copy.deepcopy(_prepared[key])

    monkeypatch.setattr(quantize_pipeline, "prepare_for_quantization", prepare)


@pytest.fixture
def quantize(cli, run):
    """`pocketvit quantize` of that run by the quickest method."""
    return lambda *words: cli("quantize", run.path, "--method", "minmax", "--no-diagnose", *words)
