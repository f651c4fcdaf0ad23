from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

TINY = [
    "--model",
    "timm/test_resnet",
    "--size",
    "32",
    "--images",
    "2",
    "--threads",
    "1",
    "--methods",
    "minmax",
]


@pytest.mark.slow
def test_a_row_for_each_method_and_what_takes_too_long(tmp_path: Path) -> None:
    script, out = import_module("quantization_cost"), tmp_path / "cost.json"
    script.main([*TINY, "--diagnosed", "--out", str(out)])
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["method"], row["diagnosis"], row["images"], row["n"]) == ("minmax", False, 2, 1)
    assert set(row["parts"]) == {"prepare", "quantize"}
    assert 0 < row["cpu_seconds"] < 300
    assert 0 < row["memory_before_gib"] <= row["peak_memory_gib"] < 4
    assert row["quantized_operators"] > 5
    before = out.read_text()
    script.main([*TINY, "--diagnosed", "--out", str(out)])
    assert out.read_text() == before, "a row that is there is not measured again"
    more_work = ["--size", "256", "--images", "64"]  # twenty seconds on a fast processor, two images 0.1
    script.main([*TINY, *more_work, "--diagnosed", "minmax", "--limit", "1", "--out", str(out)])
    *_, stopped = json.loads(out.read_text())["rows"]
    assert stopped["diagnosis"]
    assert stopped["stopped"] == "more than 1 s of the processor"
    assert "cpu_seconds" not in stopped
