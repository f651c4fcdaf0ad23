from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from pocketvit.reporting.report import render_report
from pocketvit.reporting.source import read_run
from pocketvit.reporting.widths import label_words, widths_section, widths_table


@pytest.fixture
def content() -> dict[str, Any]:
    """What concerns the widths in quantization.json."""
    rows = [("stem", 100, 8), ("blocks.<b>", 700, 4), ("head", 200, 4)]
    return {
        "label": "W8A8*",
        "spec": {"weights": 8, "activations": 8, "bits": {"stem": {}}},
        "mixed": {
            "budget": {"average_bits": 5.0, "size": None},
            "average_bits": 4.4,
            "packed_bytes": 1_500,
            "int8_bytes": 2_000,
            "float_bytes": 8_000,
            "operators": [{"operator": name, "weights": n, "bits": bits} for name, n, bits in rows],
        },
    }


def test_a_row_for_each_width(content) -> None:
    section = widths_section(content)
    assert section is not None
    assert [(row.bits, row.weights, row.operators) for row in section.rows] == [
        (4, 900, ["blocks.<b>", "head"]),
        (8, 100, ["stem"]),
    ]
    assert [row.share for row in section.rows] == [0.9, 0.1]
    assert [row.length for row in section.rows] == [100, 11.11]
    assert section.budget == "4.40 bits on average (asked: at most 5 bits)"


def test_the_packed_size_is_not_taken_for_the_files(content) -> None:
    section = widths_section(content)
    assert section is not None
    assert "take 1.50 kB (2.00 kB at 8 bits, 8.00 kB in float32)" in section.sizes
    assert "the file itself is no smaller than at 8 bits" in section.sizes


@pytest.mark.parametrize("size", ["250k", "0.2x"])
def test_a_budget_of_bytes_is_told_as_it_was_written(content, size) -> None:
    content["mixed"]["budget"] = {"average_bits": None, "size": size}
    section = widths_section(content)
    assert section is not None
    assert section.budget.endswith(f"(asked: at most {size} for all parameters)")


def test_in_the_terminal(content) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(widths_table(content))
    text = capture.get()
    rows = [line.split()[:4] for line in text.splitlines()[2:4]]
    assert rows == [["4", "2", "900", "90.0%"], ["8", "1", "100", "10.0%"]]
    assert text.count("█") == 24 + 3


def test_where_all_have_one_width(content) -> None:
    del content["mixed"]
    assert widths_section(content) is None
    assert widths_section(None) is None
    assert label_words({**content, "label": "W8A8"}) == "W8A8"


def test_the_label_has_the_average(content) -> None:
    assert label_words(content) == "W4.40A8 (mixed)"


def test_in_the_report(content, make_results, make_run, parse) -> None:
    share = {"value": 0.9, "low": 0.88, "high": 0.92}
    whole = {
        **content,
        "method": {"name": "pocket", "title": "least error", "source": "", "integer": True},
        "calibration": {"n": 32, "classes": 10, "of": 10, "seed": 0},
        "seconds": 1.0,
        "n": 400,
        "accuracy": {"float": share, "simulated": share, "file": share},
        "agreement": {"simulated_float": 0.97, "file_simulated": 1.0},
        "file": "model.mixed.onnx",
        "bytes": 1000,
        "verification": [],
        "execution": [],
    }
    run = make_run({**make_results(), "quantization.json": whole})
    html = render_report(read_run(run))
    text = parse(html).text
    assert "whole numbers of 4 or 8 bits (weights) and 8 bits (activations" in text
    assert "4 bits 2 operators, 900 weights" in text
    assert "4 bits: blocks.<b>, head" in text
    assert "Packed at these widths" in text
