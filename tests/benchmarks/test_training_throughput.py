from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch

# 64 px: at 32 the last map is odd, where MobileViTv2 differs from timm (see `MobileViTV2Block`)
TINY = ["--device", "cpu", "--size", "64", "--batch-size", "2", "--rounds", "2", "--steps", "1"]


def measured(out: Path, *arguments: str) -> dict:
    threads = torch.get_num_threads()
    script = import_module("training_throughput")
    script.main([*TINY, "--images", "0", "--alone", "--threads", str(threads), "--out", str(out), *arguments])
    return json.loads(out.read_text())


def test_eager(tmp_path: Path) -> None:
    found = measured(tmp_path / "out.json", "--pairs", "mobilevitv2_050")
    assert [row["implementation"] for row in found["rows"]] == ["pocketvit", "timm"]
    ours, theirs = found["rows"]
    assert ours["n"] == 2
    assert (ours["mode"], ours["batch_size"]) == ("eager", 2)
    assert ours["images_per_second"] > 0
    assert ours["times_timm"] == pytest.approx(theirs["p50_ms"] / ours["p50_ms"], rel=0.01)
    assert found["data_wait"] is None
    assert found["protocol"]["precision"] == "float32"


def test_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiling, which takes minutes for a training step on a processor."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    found = measured(
        tmp_path / "out.json", "--pairs", "mobilevitv2_050", "--compile", "--precision", "bfloat16"
    )
    assert [row["mode"] for row in found["rows"]] == ["eager", "eager", "compile", "compile"]
    assert len(compiled) == 2, "ours and timm's"
    assert found["protocol"]["precision"] == "bfloat16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", ["mobilevitv2_050", "swiftformer_xs"])
def test_compiled_on_a_gpu(name: str, tmp_path: Path) -> None:
    options = ["--device", "cuda", "--pairs", name, "--compile", "--precision", "bfloat16"]
    found = measured(tmp_path / "out.json", *options)
    assert [row["mode"] for row in found["rows"]] == ["eager", "eager", "compile", "compile"]


def test_half_the_batch_where_memory_ends() -> None:
    asked: list[int] = []

    def attempt(batch_size: int) -> list[dict[str, int]]:
        asked.append(batch_size)
        if batch_size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [{"batch_size": batch_size}]

    script = import_module("training_throughput")
    assert script.within_memory(attempt, 12) == [{"batch_size": 3}]
    assert asked == [12, 6, 3]


def test_not_even_one_image() -> None:
    def attempt(batch_size: int) -> list[dict[str, int]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        import_module("training_throughput").within_memory(attempt, 2)
