from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from plain_network import NAME

TINY = ["--models", NAME, "--runtimes", "onnxruntime", "--method", "minmax", "--rounds", "3"]


@pytest.mark.slow
def test_files_are_made_once_and_timed_by_a_later_call(tmp_path: Path) -> None:
    script, out, files = import_module("integer_speed"), tmp_path / "speed.json", tmp_path / "files"
    script.main([*TINY, "--files", str(files), "--only-make", "--out", str(out)])
    assert not out.exists(), "nothing was timed"
    (made,) = files.glob("**/onnxruntime.onnx")
    written = made.stat().st_mtime_ns
    script.main([*TINY, "--files", str(files), "--out", str(out)])
    assert made.stat().st_mtime_ns == written
    found = json.loads(out.read_text())
    (row,) = found["rows"]
    assert row["int8_speedup_p50"] == pytest.approx(row["float32_p50_ms"] / row["int8_p50_ms"], abs=1e-3)
    assert row["bytes"]["int8"] == made.stat().st_size
    assert 0 < row["size_ratio"] < 1
    assert row["operators"]["int8"] > 5
    assert ("profile" in row) == (row["int8_speedup_p50"] < 1)
    (summary,) = found["summary"].values()
    assert summary["models"] == 1
    assert summary["int8_geometric_mean_p50"] == row["int8_speedup_p50"]


def test_making_only_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_module("integer_speed").main(["--only-make"])
    assert "--only-make needs --files" in capsys.readouterr().err
