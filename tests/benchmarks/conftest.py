"""The scripts of benchmarks/ as modules."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script():
    """Import a script by its name, as running it would."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", SCRIPTS / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    sys.path.insert(0, str(SCRIPTS))  # where Python puts the folder of a script it runs
    yield load
    sys.path.remove(str(SCRIPTS))
