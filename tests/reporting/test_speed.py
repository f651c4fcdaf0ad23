from __future__ import annotations

import pytest

from pocketvit.reporting.speed import comparisons, row_name, threads


def row(name="swiftformer_xs", role="ours", p50=4.0, precision="float32", runtime="onnxruntime", **changes):
    found = {"name": name, "role": role, "p50_ms": p50, "precision": precision, "runtime": runtime}
    return found | {"threads": 1, "resolution": 224, **changes}


def told(rows, instructions="AVX2, AVX-512 VNNI") -> list[str]:
    return comparisons({"rows": rows, "hardware": {"instructions": instructions}})


def test_each_of_ours_is_compared_with_the_baseline_in_its_own_runtime() -> None:
    rows = [
        row(),
        row(p50=2.0, precision="int8", runtime="openvino"),
        row("mobilenetv3_large_100", "baseline", 8.0),
        row("mobilenetv3_large_100", "baseline", 4.0, runtime="openvino"),
    ]
    first, second = told(rows)
    assert "swiftformer_xs (float32, ONNX Runtime) is 2.0× faster" in first
    assert "4.00 ms against 8.00 ms" in first
    assert "swiftformer_xs (int8, OpenVINO) is 2.0× faster" in second
    assert "2.00 ms against 4.00 ms" in second


def test_a_name_stands_alone_where_nothing_differs() -> None:
    rows = [row(), row("mobilenetv3_large_100", "baseline")]
    assert row_name(rows[0], rows, model="swiftformer_xs") == "swiftformer_xs"
    older = [{key: value for key, value in found.items() if key != "runtime"} for found in rows]
    assert row_name(older[0], older, model="swiftformer_xs") == "swiftformer_xs"


@pytest.mark.parametrize(("half", "advice"), [(1.5, "is not faster than bfloat16"), (3.0, "is faster than")])
def test_bfloat16_is_recommended_where_integers_do_not_beat_it(half, advice) -> None:
    rows = [
        row(p50=2.0, precision="int8", runtime="openvino"),
        row(p50=4.0, runtime="openvino"),
        row(p50=half, precision="bfloat16", runtime="openvino"),
    ]
    beside_float, sentence = told(rows)
    assert advice in sentence
    assert f"2.00 ms against {half:.2f} ms" in sentence
    assert told(rows[:2]) == [beside_float]


@pytest.mark.parametrize(
    ("p50", "words"),
    [(2.0, "is 2.0× faster than"), (8.0, "is 2.0× slower than"), (4.0, "is about as fast as")],
)
def test_integers_are_compared_with_float(p50, words) -> None:
    (sentence,) = told([row(p50=p50, precision="int8"), row(p50=4.0), row(p50=3.0, runtime="openvino")])
    assert f"In ONNX Runtime the integer file {words} the float32 file" in sentence
    assert ("the better choice" in sentence) == (p50 > 4)
    assert "no instructions" not in sentence


@pytest.mark.parametrize(
    ("instructions", "lacking"),
    [("AVX2", True), ("AVX2, AVX-512", True), ("AVX2, AVX-VNNI", False), ("NEON, NEON dot product", False)],
)
def test_a_processor_without_instructions_for_integers_is_told(instructions, lacking) -> None:
    rows = [row(p50=3.0, precision="int8"), row(p50=4.0)]
    (sentence,) = told(rows, instructions)
    assert ("This CPU has no instructions" in sentence) == lacking
    assert "This CPU has no" not in told(rows, None)[0]
    older = comparisons({"rows": rows, "hardware": {"cpu": "as written before this was recorded"}})
    assert older == told(rows, None)


def test_numbers_of_threads() -> None:
    assert [threads(1), threads(4)] == ["1 thread", "4 threads"]
