import subprocess
import sys

import pytest

from pocketvit import __version__
from pocketvit.cli.main import main
from pocketvit.core.errors import DataError

VERBS = [
    "build",
    "train",
    "evaluate",
    "predict",
    "models",
    "import",
    "export",
    "benchmark",
    "report",
    "doctor",
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(cli, verb):
    code, out, _ = cli(verb, "--help")
    assert code == 0
    assert f"pocketvit {verb}" in out.split("Examples")[1]


def test_help_lists_every_verb_and_the_version_is_printed(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert cli("--version")[:2] == (0, f"pocketvit {__version__}\n")


def test_usage_errors_are_code_2_with_a_suggestion(cli):
    code, _, err = cli("biuld")
    assert code == 2
    assert "Did you mean 'build'" in err
    assert cli("build", "digits", "--mac", "3M")[0] == 2


def test_our_errors_have_one_message_and_a_code(cli, tmp_path):
    code, out, err = cli("build", "no-such-folder", "--out", tmp_path / "run")
    assert code == DataError.exit_code
    assert out == ""
    assert "\nDataError: There is nothing at" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(DataError):
        main(["build", "no-such-folder", "--out", str(tmp_path / "run"), "--debug"])


def test_help_does_not_wait_for_torch():
    code = (
        "import sys, pocketvit.cli.main as m; m.main(['build', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
