from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
from rich.console import Console

from pocketvit.quantization.remedies import Action
from pocketvit.reporting.charts import HEIGHT, WIDTH
from pocketvit.reporting.diagnosis import ACTIONS, advice, diagnosis_section, diagnosis_table
from pocketvit.reporting.report import _environment


def operand(what: str, bits: int = 6, **changes: Any) -> dict[str, Any]:
    return {
        "what": what,
        "bits": bits,
        "scheme": "asymmetric",
        "granularity": "tensor",
        "seen": [-0.278, 9.33],
        "covered": [-0.2, 8.5],
        "clipped": 0.0125,
        "overflowing": 0.0,
        "before_db": None,
        "after_db": 21.4,
    } | changes


def operator(name: str, error: float, share: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "convolution",
        "operands": [operand("input 0"), operand("weights", scheme="symmetric", granularity="channel")],
        "output_db": 18.2,
        "error": error,
        "changed": 0.0625,
        "share": share,
        "remedies": [],
        "suggestion": None,
    } | changes


@pytest.fixture
def content() -> dict[str, Any]:
    rows = [
        operator("stem.conv", 0.002, 0.1),
        operator("stages.0.<b>", 0.012, 0.6, suggestion={"action": "keep in float", "gain": 0.498}),
        operator("stages.1/addition", 0.0, 0.0, operands=[], output_db=-3.0),
        operator("stages.2.conv", 0.006, 0.3, suggestion={"action": "8 bits", "gain": 0.2}, output_db=None),
    ]
    rows[0]["operands"][0]["overflowing"] = 0.25
    return {
        "spec": {"method": "pocket", "weights": 8, "activations": 8, "scope": "partial", "keep_float": []},
        "diagnosis": {
            "images": 16,
            "error": 0.054,
            "changed": 0.1875,
            "operators": rows,
            "keep_float": ["stages.0.<b>"],
            "error_kept": 0.027,
        },
    }


def test_every_remedy_has_plain_words() -> None:
    assert set(ACTIONS) == set(get_args(Action))


def test_the_worst_come_first(content) -> None:
    section = diagnosis_section(content)
    assert section is not None
    assert [row.name for row in section.worst] == ["stages.0.<b>", "stages.2.conv", "stem.conv"]
    assert [row.length for row in section.worst] == [100, 50, pytest.approx(16.67)]
    assert section.others == pytest.approx(0)
    assert [row.noise for row in section.worst] == ["18 dB", "∞", "18 dB"]
    assert section.worst[0].bits == "W6 A6"
    assert section.worst[2].overflowing == 0.25
    assert "input 0: seen -0.278 to 9.33, covered -0.2 to 8.5 (asymmetric)" in section.worst[0].ranges[0]
    assert "(symmetric, a channel)" in section.worst[0].ranges[1]


def test_ten_are_shown_and_the_rest_summed(content) -> None:
    content["diagnosis"]["operators"] = [operator(f"o{i}", 0.1 - i / 1000, 0.05) for i in range(20)]
    section = diagnosis_section(content)
    assert section is not None
    assert [row.name for row in section.worst] == [f"o{i}" for i in range(10)]
    assert section.others == pytest.approx(0.5)


def test_advice_counts_what_goes_away(content) -> None:
    assert advice(content["diagnosis"]) == (
        "With this operator in float, 50.0% of the error of the scores is expected to go away:"
    )
    none, worse = copy.deepcopy(content["diagnosis"]), copy.deepcopy(content["diagnosis"])
    none.update(keep_float=[], error_kept=None)
    worse.update(error_kept=0.06)
    assert advice(none) == advice(worse) == ""


def test_the_command_asks_for_the_same_quantization(content) -> None:
    def command() -> str:
        section = diagnosis_section(content)
        assert section is not None
        return section.command

    assert command() == "--keep-float 'stages.0.<b>'"
    content["spec"].update(
        method="omse", weights=6, activations=6, scope="full", keep_float=["stem.*", "stages.0.<b>"]
    )
    kept = "--keep-float 'stem.*' --keep-float 'stages.0.<b>'"
    assert command() == f"--method omse --weights 6 --activations 6 --scope full {kept}"
    content["spec"].update(method="pocket", weights=8, activations=8, scope="partial", keep_float=[])
    content["mixed"] = {"budget": {"average_bits": None, "size": "0.2x"}}
    assert command() == "--size-budget 0.2x --keep-float 'stages.0.<b>'"


def test_noise_below_the_signal_ends_at_zero(content) -> None:
    chart = diagnosis_section(content).noise
    assert [text for _, _, text in chart.lines[0].dots] == [
        "operator 1: SNR 18.2 dB",
        "operator 2: SNR 18.2 dB",
        "operator 3: SNR 0 dB",
    ]


def test_no_diagnosis_is_no_section() -> None:
    assert diagnosis_section(None) is None
    assert diagnosis_section({"method": "pocket"}) is None


def test_terminal_table(content) -> None:
    console = Console(width=140)
    with console.capture() as captured:
        console.print(diagnosis_table(content))
    text = " ".join(captured.get().split())
    assert "stages.0.<b>" in text
    assert "keep it in float (−49.8% of all error)" in text
    assert "60.0%" in text
    assert "1.2%" in text
    assert "50.0% of the error of the scores is expected to go away: --keep-float 'stages.0.<b>'" in text
    assert "stages.1/addition" not in text, "it was not quantized"


def rendered(content: dict[str, Any]) -> str:
    template = _environment().from_string(
        '{% import "parts.html.jinja" as parts with context %}{% include "diagnosis.html.jinja" %}'
    )
    return template.render(diagnosis=diagnosis_section(content), chart_size=(WIDTH, HEIGHT))


def test_section_of_the_report(content, parse) -> None:
    page = parse(rendered(content))
    assert "stages.0.<b>" in page.text, "names are escaped"
    assert "pocketvit quantize RUN --keep-float 'stages.0.<b>'" in page.text
    assert "25.0% overflow" in page.text
    assert "operators, in the order they run" in page.text
    assert "epoch" not in page.text
    for word in ("signal-to-noise ratio", "decibels", "W: bits of the weights"):
        assert word in page.text


def test_an_undisturbed_network(content, parse) -> None:
    found = content["diagnosis"]
    found.update(error=0.0, changed=0.0, keep_float=[], error_kept=None)
    for row in found["operators"]:
        row.update(error=0.0, share=0.0, output_db=None)
    page = parse(rendered(content))
    assert "No operator changes the scores" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}
