from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from pocketvit.benchmarking import Contestant, benchmark
from pocketvit.core.errors import CheckpointError
from pocketvit.core.machine import physical_cores

ROW = {
    "name", "role", "resolution", "precision", "threads", "p50_ms", "p90_ms", "min_ms", "peak_memory_mb",
    "macs", "params", "bytes", "runtime",
}  # fmt: skip


def test_a_file_says_what_it_is(tiny_file: Path) -> None:
    contestant = Contestant.of_file(tiny_file, role="ours")
    assert contestant.name == "tiny"
    assert contestant.resolution == 32
    assert contestant.params == 3 * 8 * 9 + 8 + 8 * 2 + 2
    assert contestant.macs == 15 * 15 * 3 * 8 * 9 + 8 * 2


def test_benchmark_json(tiny_file: Path) -> None:
    ours = Contestant.of_file(tiny_file, role="ours")
    other = Contestant.of_file(tiny_file, role="baseline")
    result = benchmark([ours, other], threads=(1, 2, 1), seconds=0.05)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result) == {"protocol", "hardware", "versions", "rows"}
    assert result["protocol"]["runtime"].startswith("onnxruntime ")
    assert result["protocol"]["iterations"] % result["protocol"]["rounds"] == 0
    cells = [(row["role"], row["threads"]) for row in result["rows"]]
    assert cells == [("ours", 1), ("baseline", 1), ("ours", 2), ("baseline", 2)]
    for row in result["rows"]:
        assert set(row) == ROW
        assert 0 < row["min_ms"] <= row["p50_ms"] <= row["p90_ms"]
        assert 0 < row["peak_memory_mb"] < 100
        assert row["bytes"] == tiny_file.stat().st_size


def test_threads_are_one_and_all_by_default(tiny_file: Path) -> None:
    result = benchmark([Contestant.of_file(tiny_file, role="ours")], seconds=0.01)
    assert [row["threads"] for row in result["rows"]] == sorted({1, physical_cores()})


def test_file_without_costs_is_refused(tiny_file: Path, tmp_path: Path) -> None:
    graph = onnx.load(tiny_file)
    kept = [entry for entry in graph.metadata_props if entry.key != "macs"]
    graph.ClearField("metadata_props")
    graph.metadata_props.extend(kept)
    path = tmp_path / "old.onnx"
    onnx.save(graph, path)
    with pytest.raises(CheckpointError, match="does not say its MACs"):
        Contestant.of_file(path, role="ours")


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({}, "float32"),
        ({"precision": "w4a8", "pocketvit.operators": "{}"}, "w4a8"),
        ({"pocketvit.operators": "{}"}, "integers"),
    ],
)
def test_the_numbers_are_those_that_the_file_names(tiny_file, tmp_path, metadata, wanted) -> None:
    graph = onnx.load(tiny_file)
    onnx.helper.set_model_props(graph, {p.key: p.value for p in graph.metadata_props} | metadata)
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    assert Contestant.of_file(path, role="ours").precision == wanted
