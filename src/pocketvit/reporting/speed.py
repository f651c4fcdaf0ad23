"""What `benchmark.json` says in words: which file is faster, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pocketvit.reporting.format import milliseconds, model_name, speed_ratio
from pocketvit.reporting.quantized import RUNTIMES

__all__ = ["comparisons", "row_name", "threads"]

Row = dict[str, Any]

_FLOATS = {"float32", "bfloat16"}
_FOR_INTEGERS = ("VNNI", "AMX", "dot product")
"""In the names of instructions that sum products of 8-bit integers."""


def comparisons(benchmark: dict[str, Any]) -> list[str]:
    """Each of our rows against each baseline at the same number of threads, in words."""
    rows: list[Row] = benchmark["rows"]
    ours = [row for row in rows if row["role"] == "ours"]
    baselines = [row for row in rows if row["role"] == "baseline"]
    sentences: list[str] = []
    for row in ours:
        for other in (other for other in baselines if _is_fair(row, other)):
            same = row["resolution"] == other["resolution"]
            size = "at the same input size" if same else f"at {other['resolution']} px"
            sentences.append(
                f"{row_name(row, rows, model=row['name'])} is {speed_ratio(row['p50_ms'], other['p50_ms'])} "
                f"{model_name(other['name'])} {size}, on {threads(row['threads'])} of this CPU: "
                f"{milliseconds(row['p50_ms'])} against {milliseconds(other['p50_ms'])}."
            )
    has_kernels = _multiplies_integers(benchmark["hardware"].get("instructions"))
    return [*sentences, *_integer_advice(ours, has_kernels), *_bfloat16_advice(ours)]


def row_name(row: Row, rows: Sequence[Row], *, model: str | None = None) -> str:
    """The model of a row, with its precision and runtime where there are several of these."""
    told: list[str] = []
    if len({other["precision"] for other in rows}) > 1:
        told.append(row["precision"])
    if len({_runtime(other) for other in rows}) > 1:
        told.append(RUNTIMES[_runtime(row)])
    name = model or model_name(row["name"])
    return f"{name} ({', '.join(told)})" if told else name


def threads(number: int) -> str:
    """`1 thread`, `4 threads`."""
    return f"{number} thread{'' if number == 1 else 's'}"


def _runtime(row: Row) -> str:
    return row.get("runtime", "onnxruntime")


def _is_fair(row: Row, other: Row) -> bool:
    """As many threads, one runtime; bfloat16 only beside bfloat16: it is the runtime's own doing."""
    same = (row["threads"], _runtime(row)) == (other["threads"], _runtime(other))
    return same and (row["precision"] == "bfloat16") == (other["precision"] == "bfloat16")


def _integer_advice(ours: Sequence[Row], has_kernels: bool) -> Iterator[str]:
    """How the integer file compares with the float file, and what a slower one may be due to."""
    floats = {(row["threads"], _runtime(row)): row for row in ours if row["precision"] == "float32"}
    for row in ours:
        other = floats.get((row["threads"], _runtime(row)))
        if other is None or row["precision"] in _FLOATS:
            continue
        slower = row["p50_ms"] > 1.03 * other["p50_ms"]
        times = f"{milliseconds(row['p50_ms'])} against {milliseconds(other['p50_ms'])}"
        yield (
            f"In {RUNTIMES[_runtime(row)]} the integer file is {speed_ratio(row['p50_ms'], other['p50_ms'])} "
            f"the float32 file, on {threads(row['threads'])} of this CPU: {times}."
            + (" For speed the float32 file is the better choice here." if slower else "")
            + ("" if has_kernels else _WITHOUT_KERNELS)
        )


_WITHOUT_KERNELS = (
    " This CPU has no instructions that sum products of 8-bit integers, as phones and newer CPUs have: there "
    "integers gain more."
)


def _multiplies_integers(instructions: str | None) -> bool:
    """Whether there are such instructions; taken for granted where the system does not tell."""
    return instructions is None or any(name in instructions for name in _FOR_INTEGERS)


def _bfloat16_advice(ours: Sequence[Row]) -> Iterator[str]:
    """Whether integers are worth it in OpenVINO where the processor computes in bfloat16."""
    halves = {row["threads"]: row for row in ours if row["precision"] == "bfloat16"}
    for row in ours:
        half = halves.get(row["threads"])
        if half is None or _runtime(row) != "openvino" or row["precision"] in _FLOATS:
            continue
        times = f"{milliseconds(row['p50_ms'])} against {milliseconds(half['p50_ms'])}"
        where = f"on {threads(row['threads'])} of this CPU: {times}"
        if row["p50_ms"] < half["p50_ms"]:
            yield f"In OpenVINO the integer file is faster than bfloat16, {where}."
        else:
            yield (
                f"In OpenVINO the integer file is not faster than bfloat16, {where}. OpenVINO runs the float "
                "file in bfloat16 by itself here: for speed that is the better choice."
            )
