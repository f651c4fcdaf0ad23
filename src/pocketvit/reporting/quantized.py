"""What `quantization.json` says, for terminal and report: accuracy, size, and what is in integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketvit.reporting.diagnosis import diagnosis_table
from pocketvit.reporting.format import count, duration, file_size, interval, percent
from pocketvit.reporting.widths import label_words, widths_table

__all__ = [
    "RUNTIMES",
    "InFloat",
    "IntegerSection",
    "Score",
    "in_float",
    "integer_section",
    "integer_words",
    "kind_rows",
    "operators_table",
    "quantization_table",
    "runtimes",
    "scores",
    "size_words",
    "verified_lines",
]

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""How each runtime writes its name."""

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Score:
    """A row of the accuracy table: of what, how accurate, and how often it answers as the row before it."""

    name: str
    top1: dict[str, float]
    agreement: float | None


@dataclass(frozen=True, kw_only=True)
class InFloat:
    """Operators that stayed in float for one reason, in the named runtimes."""

    reason: str
    runtimes: tuple[str, ...]
    operators: tuple[str, ...]

    @property
    def where(self) -> str:
        """`ONNX Runtime and OpenVINO`."""
        return " and ".join(RUNTIMES.get(name, name) for name in self.runtimes)


@dataclass(frozen=True, kw_only=True)
class IntegerSection:
    """The section of the report on the integer file; see the functions of these names."""

    scores: list[Score]
    size: str
    verified: list[str]
    runtimes: list[str]
    kinds: list[tuple[str, list[str]]]
    in_float: list[InFloat]


def integer_section(content: dict[str, Any] | None, export: dict[str, Any] | None) -> IntegerSection | None:
    """What the report shows; `None` where there is no integer file.

    Args:
        content: as in quantization.json.
        export: as in export.json, for the size of the float file.
    """
    if content is None:
        return None
    return IntegerSection(
        scores=scores(content),
        size=size_words(content, float_bytes=export["bytes"] if export else None),
        verified=verified_lines(content),
        runtimes=[RUNTIMES.get(name, name) for name in runtimes(content)],
        kinds=kind_rows(content),
        in_float=in_float(content),
    )


def integer_words(content: dict[str, Any]) -> str:
    """`model.int8.onnx, 1.20 MB, accuracy 93.1% (float: 93.4%)`."""
    accuracy = content["accuracy"]
    return (
        f"{content['file']}, {size_words(content)}, accuracy {percent(accuracy['file']['value'])} "
        f"(network in float: {percent(accuracy['float']['value'])})"
    )


def scores(content: dict[str, Any]) -> list[Score]:
    """The float network, the simulation and the file, each beside the one before it."""
    accuracy, agreement = content["accuracy"], content["agreement"]
    rows = [
        Score(name="network in float", top1=accuracy["float"], agreement=None),
        Score(name="integers, simulated", top1=accuracy["simulated"], agreement=agreement["simulated_float"]),
    ]
    if "file" in accuracy:
        rows.append(Score(name=content["file"], top1=accuracy["file"], agreement=agreement["file_simulated"]))
    return rows


def size_words(content: dict[str, Any], *, float_bytes: int | None = None) -> str:
    """`1.20 MB, 0.27× the float file`; empty where there is no file.

    Args:
        float_bytes: size of the float file; by default what `content` says.
    """
    if "bytes" not in content:
        return ""
    whole = float_bytes or content.get("float_bytes")
    ratio = f", {content['bytes'] / whole:.2f}× the float file ({file_size(whole)})" if whole else ""
    return f"{file_size(content['bytes'])}{ratio}"


def verified_lines(content: dict[str, Any]) -> list[str]:
    """What the check of the file found in each runtime."""
    return [
        f"{RUNTIMES.get(row['runtime'], row['runtime'])}: {'verified' if row['passed'] else 'NOT verified'}, "
        f"{_agreement(row)}, accuracy {percent(row['accuracy_file'])} against "
        f"{percent(row['accuracy_simulation'])}"
        for row in content.get("verification", [])
    ]


def _agreement(row: dict[str, Any]) -> str:
    """With what no file can do better, where that is less than all."""
    found = f"same class as the simulation for {percent(row['agreement'])} of {row['n']:,} images"
    alone = row.get("rounding_agreement", 1.0)  # files of earlier versions do not have it
    return f"{found} (rounding in float32 alone leaves {percent(alone)})" if alone < 1 else found


def runtimes(content: dict[str, Any]) -> list[str]:
    """The runtimes whose execution is known, in order."""
    return list(dict.fromkeys(name for row in content.get("execution", []) for name in row["precision"]))


def kind_rows(content: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """For each kind of operator and each runtime, `46 int8, 1 float32, 2 merged`."""
    names = runtimes(content)
    found: dict[str, dict[str, dict[str, int]]] = {}
    for row in content.get("execution", []):
        for runtime, precision in row["precision"].items():
            counts = found.setdefault(row["kind"], {}).setdefault(runtime, {})
            counts[precision] = counts.get(precision, 0) + 1
    return [(kind, [_counts(by.get(name, {})) for name in names]) for kind, by in found.items()]


def in_float(content: dict[str, Any]) -> list[InFloat]:
    """What a runtime computes in float, grouped by the reason, most operators first."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in content.get("execution", []):
        by_reason: dict[str, list[str]] = {}
        for runtime, reason in row["reason"].items():
            if row["precision"][runtime] == "float32":
                by_reason.setdefault(reason, []).append(runtime)
        for reason, where in by_reason.items():
            groups.setdefault((reason, tuple(where)), []).append(row["operator"])
    found = [
        InFloat(reason=reason, runtimes=where, operators=tuple(names))
        for (reason, where), names in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group.operators))


def quantization_table(content: dict[str, Any]) -> RenderableType:
    """What was gained and lost; `content` is as in quantization.json."""
    method, drawn = content["method"], content["calibration"]
    title = (
        f"{method['name']} {label_words(content)}, {drawn['n']} calibration images of {drawn['classes']} of "
        f"{drawn['of']} classes, {duration(content['seconds'])}"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), _score_table(content)]
    if "mixed" in content:
        parts += ["", widths_table(content), ""]
    if "file" in content:
        parts += [Text(f"{content['file']}: {size_words(content)}"), *map(Text, verified_lines(content))]
        parts += ["", _kind_table(content), *(_in_float_text(group) for group in in_float(content))]
    elif not method["integer"]:
        parts.append(
            Text(
                f"Simulated only: no integer kernel computes with the numbers that {method['name']} chooses, "
                "so no file was written. `pocket` writes one.",
                style="yellow",
            )
        )
    else:
        parts.append(Text("Simulated only, as asked: no file was written.", style="yellow"))
    if "diagnosis" in content:
        parts += ["", diagnosis_table(content)]
    return Group(*parts)


def operators_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The operators of a network; `rows` as `pocketvit quantize --list --json` prints them."""
    quantized = sum(row["quantized"] for row in rows)
    table = _plain(f"{len(rows)} operators, {quantized} of them to be quantized")
    table.add_column("operator", overflow="fold")
    table.add_column("kind", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        parameters = count(row["parameters"]) if row["parameters"] else ""
        state = "" if row["quantized"] else "float" if row["scope"] == "partial" else "float (--scope full)"
        table.add_row(escape(row["operator"]), row["kind"], parameters, state)
    return table


def _score_table(content: dict[str, Any]) -> Table:
    table = _plain(None)
    table.add_column("", overflow="fold")
    for name in ("top-1", "95% interval", "same class as the row above"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in scores(content):
        agreed = "" if row.agreement is None else percent(row.agreement)
        table.add_row(escape(row.name), percent(row.top1["value"]), interval(row.top1), agreed)
    table.caption = Text(f"n = {content['n']:,} held-out images")
    return table


def _kind_table(content: dict[str, Any]) -> Table:
    table = _plain("What computes in which numbers")
    table.add_column("operators", no_wrap=True)
    for name in runtimes(content):
        table.add_column(RUNTIMES.get(name, name), overflow="fold")
    for kind, cells in kind_rows(content):
        table.add_row(kind, *cells)
    return table


def _in_float_text(group: InFloat) -> Text:
    left = len(group.operators) - _SHOWN
    names = ", ".join(group.operators[:_SHOWN]) + (f" and {left} more" if left > 0 else "")
    return Text.assemble((f"in float ({group.where}): ", "yellow"), f"{group.reason}: ", (names, "dim"))


def _counts(counts: dict[str, int]) -> str:
    order: Iterable[str] = ("int8", "float32", "merged")
    return ", ".join(f"{counts[name]} {name}" for name in order if name in counts)


def _plain(title: str | None) -> Table:
    return Table(
        title=None if title is None else Text(title),
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
