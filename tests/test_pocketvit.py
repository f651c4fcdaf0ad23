"""What `import pocketvit` offers."""

import subprocess
import sys

import pytest

import pocketvit


def test_every_public_name_is_there():
    assert sorted(pocketvit._HOME) == [name for name in pocketvit.__all__ if name != "__version__"]
    for name in pocketvit.__all__:
        assert getattr(pocketvit, name)


def test_importing_it_does_not_import_torch():
    code = "import sys, pocketvit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_other_names_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        pocketvit.creat_model  # noqa: B018 - the access is what is tested
