"""Cells become tables: means, spreads, dots for what was not run."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


def cell(model: str, method: str, drop: float, draw: int = 0, label: str = "W8A8") -> dict[str, Any]:
    return {
        "model": model,
        "method": method,
        "label": label,
        "scope": "partial",
        "draw": draw,
        "drop": drop,
        "agreement": 0.98,
        "cpu_seconds": 10.04,
    }


def network() -> dict[str, Any]:
    top1 = {"value": 0.75, "low": 0.7, "high": 0.8}
    return {"top1": top1, "n": 2500, "n_train": 12500, "quantized_operators": 100}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    cells = [
        cell("a", "pocket", 0.001),
        cell("a", "pocket", 0.003, draw=1),
        cell("b", "pocket", -0.002),
        cell("a", "nncf_default", 0.01),
        cell("b", "minmax", -0.000001),
        cell("a", "pocket", 0.5, label="W6A6"),
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"networks": {"a": network(), "b": network()}, "cells": cells}))
    return path


def test_the_page_has_means_and_spreads_and_dots(results: Path, tmp_path: Path) -> None:
    import_module("quantization_tables").main(
        ["--results", str(results), "--page", str(tmp_path / "page.md")]
    )
    page = (tmp_path / "page.md").read_text()
    assert "| a | 75.0% | 70.0 to 80.0% | 12,500 | 2,500 | 100 |" in page
    eight, six = page.split("W8A8, partial scope (less")[1].split("W6A6, partial scope (less")
    assert "| pocket | 0.20 ± 0.14 | −0.20 | 0.00 |" in eight, "the mean is over networks, not over cells"
    assert "| nncf_default | 1.00 | · | · |" in eight, "no mean without every network"
    assert "| minmax | · | 0.00 | · |" in eight, "no minus nothing"
    assert "| pocket | 10.0 ± 0.0 | 10.0 | 10.0 |" in eight
    assert "| pocket | 50.00 | · | · |" in six
    assert eight.index("| minmax") < eight.index("| nncf_default"), "our methods come first"
    assert "full scope" not in page


def test_files_are_beside_their_simulation(results: Path, tmp_path: Path) -> None:
    found = json.loads(results.read_text())
    script = import_module("quantization_tables")
    assert "Images that a file" not in script.page(found)
    verified = {"agreement": 0.9952, "accuracy_file": 0.74, "accuracy_simulation": 0.7415}
    found["cells"].append({**cell("b", "pocket_openvino", 0), "verification": verified})
    page = script.page(found).split("Images that a file")[1]
    assert "| file | a | b |" in page
    assert "| pocket_openvino W8A8 partial | · | 99.52 / 0.15 / · |" in page
    verified["rounding_agreement"] = 0.998
    assert "| · | 99.52 / 0.15 / 99.80 |" in script.page(found)


def test_who_is_furthest_ahead_of_pocket(results: Path) -> None:
    found = json.loads(results.read_text())
    script = import_module("quantization_tables")
    assert list(script.leads(found)) == [
        ["a", "W8A8", "partial", "1", "none", "·", "·", "·"],
        ["b", "W8A8", "partial", "1", "none", "·", "·", "·"],
    ], "at W6A6 there is nothing to compare"
    found["cells"].append({**cell("a", "omse", -0.001), "agreement": 0.9575})
    words = ["a", "W8A8", "partial", "2", "omse", "0.30", "≤ 0.50", "≥ 0.6"]
    assert next(script.leads(found)) == words, "sqrt(0.0625 / 2500)"
    assert f"| {' | '.join(words)} |" in script.page(found)


def test_a_second_look_is_on_the_page_where_there_is_one(results: Path, tmp_path: Path) -> None:
    found, page = json.loads(results.read_text()), tmp_path / "page.md"
    found["cells"].append(cell("a", "omse", -0.001))
    results.write_text(json.dumps(found))
    script = import_module("quantization_tables")
    script.main(["--results", str(results), "--page", str(page)])
    assert "other images" not in page.read_text()
    assert "second time" not in page.read_text()
    fresh = {**found, "cells": [cell("a", "pocket", 0.001), cell("a", "omse", 0.0035)]}
    results.with_name("results_second_look.json").write_text(json.dumps(fresh))
    script.main(["--results", str(results), "--page", str(page)])
    introduction, table = page.read_text().split("by how much on 2,500 other images")
    assert "second time" in introduction
    assert "| a | W8A8 | partial | omse | 0.30 | −0.25 | ≤ 0.40 | ≤ −0.6 |" in table


def test_cells_of_earlier_code_are_marked_with_the_reason(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(results.read_text())
    script = import_module("quantization_tables")
    assert script.MARK not in script.page(found)
    found["cells"][1]["outdated"] = "images counted alike"
    page = script.page(found)
    assert f"{script.MARK} Measured by earlier code: images counted alike." in page
    assert f"| pocket | 0.20 ± 0.14{script.MARK} | −0.20 | 0.00{script.MARK} |" in page
    row = next(row for row in script.overview(found).rows if row[0] == "`pocket` (ours)")
    assert row[1] == f"0.20{script.MARK} / 50.00"
    script.show(found)
    assert "Measured by earlier code: images counted alike." in capsys.readouterr().out


def test_the_terminal_shows_the_same(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_module("quantization_tables").main(["--results", str(results)])
    printed = capsys.readouterr().out
    assert "Points of top-1 lost, W8A8, partial scope" in printed
    assert "0.20 ± 0.14" in printed


def test_readme_gets_the_overview_between_its_comments(results: Path, tmp_path: Path) -> None:
    script, readme = import_module("quantization_tables"), tmp_path / "README.md"
    begin, end = (comment.format(results="results.json") for comment in (script.BEGIN, script.END))
    readme.write_text(f"before\n{begin}old\n{end}after\n")
    for _ in range(2):
        script.main(["--results", str(results), "--readme", str(readme)])
        lines = readme.read_text().splitlines()
        assert (lines[0], lines[-1]) == ("before", "after")
        assert "old" not in lines
        assert "| W8A8 / W6A6 | a 75.0% | b 75.0% | mean |" in lines
        assert "| `pocket` (ours) | 0.20 / 50.00 | −0.20 / · | 0.00 / · |" in lines
        assert "| NNCF default (OpenVINO) | 1.00 | · | · |" in lines, "a file has no second width"


def test_the_overview_says_what_its_marks_mean_and_nothing_of_other_cells(results: Path) -> None:
    found, script = json.loads(results.read_text()), import_module("quantization_tables")
    begin, end = (comment.format(results="results.json") for comment in (script.BEGIN, script.END))
    found["cells"].append({**cell("a", "pocket", 0.0), "scope": "full", "outdated": "of full scope"})
    assert "earlier code" not in script.with_overview(begin + end, found, "results.json")
    found["cells"][1]["outdated"] = "images counted alike"
    marked = script.with_overview(begin + end, found, "results.json")
    assert marked.endswith(f"|\n\n{script.MARK} Measured by earlier code: images counted alike.\n{end}")


def test_the_overview_has_files_and_their_agreement(results: Path) -> None:
    found, script = json.loads(results.read_text()), import_module("quantization_tables")
    verified = {"agreement": 0.9952, "accuracy_file": 0.74, "accuracy_simulation": 0.7415}
    found["cells"] += [
        {**cell("b", "pocket_openvino", 0.004, label=label), "verification": verified, "outdated": "slow"}
        for label in ("W8A8", "W6A6")
    ]
    del found["cells"][-1]["outdated"]
    rows = {name: cells for name, *cells in script.overview(found).rows}
    assert rows["`pocket`'s file in OpenVINO"] == ["· / ·", f"0.40{script.MARK} / 0.40", "· / ·"]
    agreement = rows["file and simulation agree, OpenVINO, %"]
    assert agreement == ["· / ·", f"99.52{script.MARK} / 99.52", "· / ·"]


def test_a_readme_without_the_comments_is_left_as_it_is(results: Path, tmp_path: Path) -> None:
    script, readme = import_module("quantization_tables"), tmp_path / "README.md"
    readme.write_text("something else\n")
    with pytest.raises(SystemExit, match=r"begin table of results\.json"):
        script.main(["--results", str(results), "--readme", str(readme)])
    assert readme.read_text() == "something else\n"


def test_what_is_written_in_docs_and_readme_is_of_the_results_that_are_there() -> None:
    script, root = import_module("quantization_tables"), Path(__file__).parents[2]
    for name, page in {
        "quantization": "quantization-results",
        "quantization_vnni": "quantization-vnni",
    }.items():
        results = script.RESULTS.with_name(f"{name}.json")
        found, fresh = script.read(results)
        assert script.page(found, results.name, fresh) == (root / "docs" / f"{page}.md").read_text()
    readme, (found, _) = (root / "README.md").read_text(), script.read(script.RESULTS)
    assert script.with_overview(readme, found) == readme
