from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from torch import nn


def row(name: str, batch: int = 1, size: int = 256, speedup: float = 1.0, **changes) -> dict:
    ratios = {f"speedup_{label}": speedup for label in ("p50", "min", "cpu")}
    found = {"name": name, "runtime": "onnxruntime", "batch": batch, "size": size, "threads": 1}
    return found | ratios | changes


@pytest.fixture
def exports_once(
    monkeypatch: pytest.MonkeyPatch, shallow: Callable[[nn.Module], nn.Module]
) -> Iterator[None]:
    """The script measures shallow networks and keeps the files that it has exported."""
    script = import_module("backbones")
    for module in (script, script.timm):
        create = module.create_model
        monkeypatch.setattr(module, "create_model", lambda name, create=create: shallow(create(name)))
    with ExitStack() as files:
        once = cache(lambda *key, export=script.exported: files.enter_context(export(*key)))
        monkeypatch.setattr(script, "exported", lambda *key: nullcontext(once(*key)))
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("exports_once")
def test_a_finished_row_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = import_module("backbones")
    out = tmp_path / "out.json"
    arguments = ["--models", "mobilevit_xxs", "--size", "64", "--runtimes", "onnxruntime", "--rounds", "4"]
    arguments += ["--out", str(out)]
    script.main([*arguments, "--batch", "1"])
    (first,) = json.loads(out.read_text())["rows"]
    assert first["rounds"] == 4
    assert first["max_diff"] <= script.SAME
    assert first["speedup_p50"] == pytest.approx(first["timm_p50_ms"] / first["ours_p50_ms"], rel=0.01)
    assert {rewrite["name"] for rewrite in first["rewrites"]} >= {"unfold_tokens", "fold_norm_after"}
    assert first["hardware"]
    assert first["versions"]["onnxruntime"]

    script.main([*arguments, "--batch", "1", "2"])
    again, second = json.loads(out.read_text())["rows"]
    assert (again, second["batch"]) == (first, 2)

    monkeypatch.setattr(script, "exported", None)  # nothing is left to do
    script.main([*arguments, "--batch", "1", "2"])


def test_rows_without_threads_are_of_an_older_script(tmp_path: Path) -> None:
    script = import_module("backbones")
    out = tmp_path / "out.json"
    rows = [row("swiftformer_xs", size=224, threads=1), {"name": "swiftformer_xs", "size": 224}]
    out.write_text(json.dumps({"rows": rows}))
    done = ["--models", "swiftformer_xs", "--size", "own", "--batch", "1", "--runtimes", "onnxruntime"]
    script.main([*done, "--profile", "0", "--out", str(out)])
    assert json.loads(out.read_text())["rows"] == rows  # nothing new, nothing written


def test_summary_by_runtime_batch_and_size() -> None:
    script = import_module("backbones")
    rows = [row("mobilevit_s", speedup=4.0), row("swiftformer_s", size=224), row("mobilevit_s", size=512)]
    found = script.summarise(rows)
    assert list(found) == ["onnxruntime, batch 1, 512 px", "onnxruntime, batch 1, own size"]
    own = found["onnxruntime, batch 1, own size"]
    assert (own["models"], own["geometric_mean_p50"], own["worst_p50"]) == (2, 2.0, 1.0)


def test_those_that_gain_least_are_profiled() -> None:
    script = import_module("backbones")
    rows = [
        row("mobilevit_s", speedup=1.1),
        row("mobilevit_xs", speedup=1.3),
        row("mobilevit_xxs", speedup=1.2),
        row("swiftformer_s", size=224, speedup=0.5),  # not asked for
        row("mobilevit_s", batch=8, speedup=0.5),
        row("mobilevit_s", size=512, speedup=0.5),
    ]
    models = ["--models", "mobilevit_s", "mobilevit_xs", "mobilevit_xxs"]
    args = script.parse_arguments([*models, "--runtimes", "onnxruntime", "--profile", "2", "--batch", "1"])
    found = [(row["name"], row["size"]) for row in script.least_gain(rows, args)]
    assert found == [("mobilevit_s", 256), ("mobilevit_xxs", 256), ("mobilevit_s", 512)]


def test_turns_alternate_and_end_in_time() -> None:
    script = import_module("backbones")
    order: list[str] = []

    def run(side: str):
        def call(images: np.ndarray) -> np.ndarray:
            order.append(side)
            time.sleep(0.002)
            return images

        return call

    images = np.zeros((1, 3, 4, 4), np.float32)
    wall, cpu = script.take_turns({"a": run("a"), "b": run("b")}, images, rounds=40, limit=0.0)
    assert order[:8] == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert [len(wall["a"]), len(wall["b"]), len(cpu["a"])] == [script.LEAST_ROUNDS] * 3
    assert min(wall["a"]) >= 0.002  # by the clock
    assert np.median(cpu["a"]) < 0.002  # sleeping takes no processor


def test_other_outputs_stop_the_benchmark() -> None:
    script = import_module("backbones")
    runs = {"ours": lambda images: images * 1.001, "timm": lambda images: images}
    with pytest.raises(SystemExit, match=r"1\.0e-03"):
        script.difference(runs, np.ones((2, 5), np.float32))
