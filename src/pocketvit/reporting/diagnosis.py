"""Where accuracy was lost to integers, for terminal and report; from `diagnosis` in quantization.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketvit.reporting.charts import LineChart, line_chart
from pocketvit.reporting.format import percent

__all__ = ["ACTIONS", "DiagnosisSection", "WorstOperator", "advice", "diagnosis_section", "diagnosis_table"]

ACTIONS = {
    "keep in float": "keep it in float",
    "8 bits": "give it 8 bits",
    "whole range": "cover its whole range, as the method minmax does",
    "asymmetric": "let its range lie unevenly around 0",
    "range a channel": "give each channel a range of its own",
}
"""What each remedy is, in words."""

_WORST = 10

_DEFAULTS = {"--method": "pocket", "--weights": 8, "--activations": 8, "--scope": "partial"}
"""What `pocketvit quantize` does unasked."""


@dataclass(frozen=True, kw_only=True)
class WorstOperator:
    """One of the operators that change the answers most.

    Attributes:
        bits: such as `W6 A6`, of weights and activations.
        share: of the summed errors of all operators.
        length: of its bar, in percent of the longest.
        noise: signal-to-noise ratio of what it returns, as text.
        clipped: largest share of clipped numbers among its tensors.
        overflowing: largest share of zero points outside the integers.
        ranges: for each tensor, what was seen and what is covered.
        suggestion: in words; empty where nothing helps enough.
        gain: share of the network's error that goes away with it.
    """

    name: str
    kind: str
    bits: str
    share: float
    changed: float
    length: float
    noise: str
    clipped: float
    overflowing: float
    ranges: list[str]
    suggestion: str
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class DiagnosisSection:
    """The section of the report: sentences, bars of the worst operators, noise along the network."""

    images: int
    changed: float
    error: float
    worst: list[WorstOperator]
    others: float
    noise: LineChart | None
    advice: str
    command: str


def diagnosis_section(content: dict[str, Any] | None) -> DiagnosisSection | None:
    """What the report shows; `content` is as in quantization.json, `None` where there is no diagnosis."""
    if content is None or "diagnosis" not in content:
        return None
    found = content["diagnosis"]
    worst = _worst(found)
    return DiagnosisSection(
        images=found["images"],
        changed=found["changed"],
        error=found["error"],
        worst=worst,
        others=max(0.0, sum(row["share"] for row in found["operators"]) - sum(row.share for row in worst)),
        noise=_noise(found),
        advice=advice(found),
        command=_command(content),
    )


def diagnosis_table(content: dict[str, Any]) -> RenderableType:
    """The ten operators that change the answers most; `content` is as in quantization.json."""
    found = content["diagnosis"]
    table = Table(box=None, pad_edge=False)
    table.add_column("operator", overflow="fold")
    for name in ("bits", "share", "SNR", "clipped"):
        table.add_column(name, justify="right", no_wrap=True)
    worst = _worst(found)
    for row in worst:
        table.add_row(escape(row.name), row.bits, percent(row.share), row.noise, percent(row.clipped))
    return Group(
        Text("What costs most: each operator alone in integers"),
        table,
        Text(
            f"{found['images']} calibration images; share: of the error of the scores; SNR: signal-to-noise "
            "ratio of what it returns, 20 dB is noise of a tenth"
        ),
        *(
            Text(f"{row.name}: {row.suggestion} (−{percent(row.gain)} of all error)")
            for row in worst
            if row.suggestion
        ),
        *([Text(f"{advice(found)} {_command(content)}")] if advice(found) else []),
    )


def advice(found: dict[str, Any]) -> str:
    """What keeping the worst operators in float would bring; empty where it is not worth it."""
    names, left = found["keep_float"], found["error_kept"]
    if not names or left is None or left >= found["error"]:
        return ""
    which = "this operator" if len(names) == 1 else f"these {len(names)} operators"
    gain = percent(1 - left / found["error"])
    return f"With {which} in float, {gain} of the error of the scores is expected to go away:"


def _command(content: dict[str, Any]) -> str:
    """The options of the same quantization with these operators in float."""
    spec, budget = content["spec"], content.get("mixed", {}).get("budget", {})
    options = {
        "--method": spec["method"],
        "--average-bits": budget.get("average_bits"),
        "--size-budget": budget.get("size"),
        "--weights": None if budget else spec["weights"],
        "--activations": spec["activations"],
        "--scope": spec["scope"],
    }
    asked = [f"{name} {value}" for name, value in options.items() if value not in (None, _DEFAULTS.get(name))]
    kept = dict.fromkeys([*spec["keep_float"], *content["diagnosis"]["keep_float"]])
    return " ".join([*asked, *(f"--keep-float '{name}'" for name in kept)])


def _worst(found: dict[str, Any]) -> list[WorstOperator]:
    ranked = sorted((row for row in found["operators"] if row["operands"]), key=lambda row: -row["error"])
    ranked = [row for row in ranked[:_WORST] if row["error"] > 0]
    return [_operator(row, longest=ranked[0]["share"]) for row in ranked]


def _operator(row: dict[str, Any], *, longest: float) -> WorstOperator:
    operands, suggestion = row["operands"], row["suggestion"]
    return WorstOperator(
        name=row["name"],
        kind=row["kind"],
        bits=_bits(operands),
        share=row["share"],
        changed=row["changed"],
        length=round(100 * row["share"] / longest, 2) if longest else 0.0,
        noise=_decibels(row["output_db"]),
        clipped=max(operand["clipped"] for operand in operands),
        overflowing=max(operand["overflowing"] for operand in operands),
        ranges=[_range(operand) for operand in operands],
        suggestion=ACTIONS[suggestion["action"]] if suggestion else "",
        gain=suggestion["gain"] if suggestion else None,
    )


def _bits(operands: list[dict[str, Any]]) -> str:
    weights = {row["bits"] for row in operands if row["what"] == "weights"}
    inputs = {row["bits"] for row in operands if row["what"].startswith("input")}
    parts = [("W", weights), ("A", inputs)]
    return " ".join(f"{letter}{'/'.join(map(str, sorted(bits)))}" for letter, bits in parts if bits)


def _range(operand: dict[str, Any]) -> str:
    (low, high), (least, most) = operand["seen"], operand["covered"]
    spaced = (
        operand["scheme"]
        if operand["granularity"] == "tensor"
        else f"{operand['scheme']}, a {operand['granularity']}"
    )
    noise = (
        f", SNR {_decibels(operand['before_db'])} before rounding and {_decibels(operand['after_db'])} after"
    )
    return (
        f"{operand['what']}: seen {low:.3g} to {high:.3g}, covered {least:.3g} to {most:.3g} ({spaced})"
        f"{noise}"
    )


def _decibels(value: float | None) -> str:
    return "∞" if value is None else f"{value:.0f} dB"


def _noise(found: dict[str, Any]) -> LineChart | None:
    """SNR of every operator's result; below 0 dB, where noise outweighs the signal, all is lost alike."""
    points = [
        (number, max(0.0, row["output_db"]))
        for number, row in enumerate(found["operators"], start=1)
        if row["output_db"] is not None
    ]
    return line_chart(
        "Signal-to-noise ratio along the network",
        y_label="SNR (dB)",
        series=[("SNR", "line-a", points)],
        best=None,
        text=lambda value: f"{value:.4g} dB",
        step="operator",
    )
