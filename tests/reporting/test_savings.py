from __future__ import annotations

import pytest

from pocketvit.deployment.rewrites import REWRITES
from pocketvit.reporting.report import render_report
from pocketvit.reporting.savings import WORDS, savings
from pocketvit.reporting.source import read_run


def test_every_rewrite_has_plain_words() -> None:
    assert set(WORDS) == set(REWRITES), "a rewrite was added or renamed: say in savings.py what it does"
    assert not [words for words in WORDS.values() if "_" in words]


def test_the_costs_add_up(make_results) -> None:
    export = make_results()["export.json"]
    found = savings(export)
    assert found is not None
    assert found.before == (1_113_871, 38_219_416, 1_432_000)
    assert found.after == (1_103_631, 36_007_576, 1_334_720)
    assert [row.saved for row in found.rows] == [("−10.2 k", "", "−98.3 k"), ("", "−2.21 M", "+1,024")]
    assert "0.9% fewer parameters (1.11 M before, 1.10 M in the file), 5.8% fewer" in found.sentence
    assert "and 6.8% fewer numbers written to memory on the way (1.43 M before" in found.sentence


def test_what_costs_more_is_said(make_results) -> None:
    export = make_results()["export.json"]
    export["rewrites"] = export["rewrites"][1:]
    found = savings(export)
    assert found is not None
    assert "parameters" not in found.sentence
    assert "0.1% more numbers written to memory on the way (1.43 M before, 1.43 M" in found.sentence


@pytest.mark.parametrize("lacking", [("rewrites", "cost_before_rewrites"), ("cost_before_rewrites",), ()])
def test_nothing_merged_or_recorded_is_no_section(make_results, make_run, lacking) -> None:
    content = make_results()
    for key in lacking:  # files of earlier versions
        del content["export.json"][key]
    if not lacking:
        content["export.json"]["rewrites"] = []
    assert savings(content["export.json"]) is None
    assert "What was merged" not in render_report(read_run(make_run(content)))
    assert savings(None) is None


def test_a_rewrite_of_another_version_keeps_its_name(make_results) -> None:
    export = make_results()["export.json"]
    export["rewrites"][0]["name"] = "merge_the_unknown"
    found = savings(export)
    assert found is not None
    assert found.rows[0].words == "merge the unknown"


def test_the_report_shows_them(make_results, make_run, parse) -> None:
    page = parse(render_report(read_run(make_run(make_results()))))
    assert "merged by algebra that leaves its answers as they are" in page.text
    assert WORDS["map_separable_attention"] in page.text


def test_the_report_says_how_the_model_was_built(make_results, make_run, parse) -> None:
    content = make_results()
    assert "Built with" not in parse(render_report(read_run(make_run(content)))).text
    content["model.json"]["options"] = {"official_resize": True, "mixer": "<b>softmax</b>"}
    page = parse(render_report(read_run(make_run(content))))
    assert "official_resize: yes, mixer: <b>softmax</b>" in page.text
    del content["model.json"]["options"]  # as written before there were options
    assert "Built with" not in parse(render_report(read_run(make_run(content)))).text
