from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_setting_alone_and_beside_a_busy_program(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    options = ["--spins", "1000", "--threads", "1", "--batch-size", "2", "--steps", "1", "--repeats", "1"]
    import_module("busy_cores").main([*options, "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["spins"], row["threads"], row["busy_programs"]) for row in rows] == [
        (1000, 1, 0),
        (None, 1, 0),
        (1000, 1, 1),
        (None, 1, 1),
    ]
    assert all(row["step_ms"] > 0 for row in rows)


def test_the_busy_program_ends_whatever_happens() -> None:
    script, started = import_module("busy_cores"), []
    popen = script.subprocess.Popen

    def watched(command: list[str], *, start_new_session: bool) -> object:
        assert start_new_session
        started.append(popen(command, start_new_session=True))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script.subprocess, "Popen", watched)
        with pytest.raises(RuntimeError, match="in between"), script.busy(1):
            assert started[0].poll() is None
            raise RuntimeError("in between")
    assert started[0].poll() is not None
