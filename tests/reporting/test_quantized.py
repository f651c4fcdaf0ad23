from __future__ import annotations

import copy
from typing import Any

import pytest
from rich.console import Console

from pocketvit.reporting import summary_table
from pocketvit.reporting.notices import notices
from pocketvit.reporting.quantized import (
    in_float,
    kind_rows,
    operators_table,
    quantization_table,
    scores,
    size_words,
)
from pocketvit.reporting.report import render_report
from pocketvit.reporting.source import read_run

KEPT = "left in float by the scope or by --keep-float"


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def executed(operator: str, kind: str, ort: str, other: str, **reason: str) -> dict[str, Any]:
    precision = {"onnxruntime": ort, "openvino": other}
    return {"operator": operator, "kind": kind, "precision": precision, "reason": reason}


@pytest.fixture
def content() -> dict[str, Any]:
    """As `pocketvit quantize` writes it."""
    return {
        "method": {"name": "pocket", "title": "least-error ranges", "source": "this", "integer": True},
        "label": "W8A8",
        "spec": {"weights": 8, "activations": 8, "bits": {}},
        "calibration": {"n": 32, "classes": 10, "of": 10, "seed": 0},
        "seconds": 12.3,
        "n": 400,
        "accuracy": {"float": share(0.93), "simulated": share(0.925), "file": share(0.9225)},
        "agreement": {"simulated_float": 0.97, "file_simulated": 0.9975},
        "quantized": {"convolution": {"quantized": 2, "float": 0}, "norm": {"quantized": 0, "float": 1}},
        "file": "model.int8.onnx",
        "sha256": "cd34" * 16,
        "bytes": 1_200_000,
        "float_bytes": 4_481_223,
        "opset": 20,
        "nodes": 400,
        "verification": [
            {
                "runtime": runtime,
                "n": 512,
                "agreement": 0.998,
                "accuracy_simulation": 0.925,
                "accuracy_file": 0.925,
                "mean_difference": 0.01,
                "rounding_agreement": 0.999 if runtime == "openvino" else 1.0,
                "rounding_difference": 0.008,
                "passed": True,
            }
            for runtime in ("onnxruntime", "openvino")
        ],
        "execution": [
            executed("stem", "convolution", "int8", "int8"),
            executed("<b>blocks</b>", "convolution", "float32", "int8", onnxruntime="it returns float"),
            executed("norm", "norm", "float32", "float32", onnxruntime=KEPT, openvino=KEPT),
            executed("add", "addition", "int8", "merged", openvino="part of another"),
        ],
    }


@pytest.fixture
def shown(make_results, make_run, parse):
    """The report of a run with this content of quantization.json."""

    def render(content: dict[str, Any] | None):
        return parse(render_report(read_run(make_run({**make_results(), "quantization.json": content}))))

    return render


def printed(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_each_row_is_compared_with_the_one_before(content) -> None:
    assert [(row.name, row.top1["value"], row.agreement) for row in scores(content)] == [
        ("network in float", 0.93, None),
        ("integers, simulated", 0.925, 0.97),
        ("model.int8.onnx", 0.9225, 0.9975),
    ]


def test_operators_are_counted_by_kind_and_runtime(content) -> None:
    assert kind_rows(content) == [
        ("convolution", ["1 int8, 1 float32", "2 int8"]),
        ("norm", ["1 float32", "1 float32"]),
        ("addition", ["1 int8", "1 merged"]),
    ]


def test_what_stayed_in_float_is_named_once_for_each_reason(content) -> None:
    groups = {group.reason: (group.where, group.operators) for group in in_float(content)}
    assert groups == {
        "it returns float": ("ONNX Runtime", ("<b>blocks</b>",)),
        KEPT: ("ONNX Runtime and OpenVINO", ("norm",)),
    }


def test_size_beside_the_float_file(content) -> None:
    assert size_words(content) == "1.20 MB, 0.27× the float file (4.48 MB)"
    assert size_words(content, float_bytes=2_400_000) == "1.20 MB, 0.50× the float file (2.40 MB)"
    assert size_words({**content, "float_bytes": None}) == "1.20 MB"


def test_the_terminal_says_it_all(content) -> None:
    text = printed(quantization_table(content))
    for part in ("pocket W8A8, 32 calibration images", "92.2%", "n = 400", "0.27×", "1 int8, 1 float32"):
        assert part in text
    assert "in float (ONNX Runtime): it returns float: <b>blocks</b>" in text
    assert "OpenVINO: verified, same class as the simulation for 99.8% of 512 images (rounding" in text
    assert "(rounding in float32 alone leaves 99.9%), accuracy" in text
    assert "ONNX Runtime: verified, same class as the simulation for 99.8% of 512 images, accuracy" in text


def test_many_operators_are_cut_in_the_terminal_only(content, shown) -> None:
    content["execution"] += [
        executed(f"norm {i}", "norm", "float32", "float32", onnxruntime=KEPT, openvino=KEPT)
        for i in range(20)
    ]
    assert "and 18 more" in printed(quantization_table(content))
    assert "norm 19" in shown(content).text


def test_a_simulation_says_that_there_is_no_file(content) -> None:
    for key in ("file", "bytes", "verification", "execution"):
        del content[key]
    del content["accuracy"]["file"], content["agreement"]["file_simulated"]
    assert "as asked: no file was written" in printed(quantization_table(content))
    content["method"] |= {"name": "fqvit", "integer": False}
    assert "no integer kernel computes with the numbers that fqvit chooses" in printed(
        quantization_table(content)
    )


def test_operators_to_choose_from() -> None:
    rows = [
        {"operator": "stem", "kind": "convolution", "scope": "partial", "parameters": 432, "quantized": True},
        {"operator": "norm", "kind": "norm", "scope": "full", "parameters": 16, "quantized": False},
    ]
    text = printed(operators_table(rows))
    assert "2 operators, 1 of them to be quantized" in text
    assert "float (--scope full)" in text


def test_the_report_has_a_section_only_where_there_is_a_file(content, shown) -> None:
    assert "computes in integers" not in shown(None).text
    page = shown(content)
    assert "The file that computes in integers" in page.text
    assert "<b>blocks</b>" in page.text, "names are not trusted"
    assert "0.27× the float file" in page.text
    assert "99.8% of 512 images" in page.text
    assert ("section", {"id": "integers"}) in page.tags


def test_the_summary_has_a_line(content, make_results, make_run) -> None:
    run = make_run({**make_results(), "quantization.json": content})
    text = printed(summary_table(run))
    assert "model.int8.onnx, 1.20 MB" in text
    assert "accuracy 92.2% (network in float: 93.0%)" in text


def test_what_to_be_wary_of(content, make_results, make_run) -> None:
    def titles(found: dict[str, Any]) -> str:
        run = make_run({**make_results(), "quantization.json": found})
        return " ".join(notice.title for notice in notices(read_run(run)))

    assert "nteger" not in titles(content)
    worse = copy.deepcopy(content)
    worse["verification"][1]["passed"] = False
    worse["accuracy"]["file"] = share(0.8)
    assert "not verified in openvino" in titles(worse)
    assert "Integers cost accuracy" in titles(worse)


def test_a_stage_that_was_begun_again_is_not_shown(content, make_results, make_run) -> None:
    results = {**make_results(), "quantization.json": content}
    results["run.json"]["stages"]["quantize"] = {"key": "k", "started": "2026-01-02T10:00:00+00:00"}
    assert read_run(make_run(results)).quantization is None
