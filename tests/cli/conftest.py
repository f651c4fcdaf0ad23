import pytest

from pocketvit.cli.main import main


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
