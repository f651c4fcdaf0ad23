"""The same findings for the terminal, as rich tables."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pocketvit.core.rundir import RunDirectory
from pocketvit.reporting.format import (
    count,
    duration,
    file_size,
    integer,
    interval,
    milliseconds,
    percent,
)
from pocketvit.reporting.notices import SLOWER, Notice, notices
from pocketvit.reporting.quantized import integer_words
from pocketvit.reporting.sections import main_row, shown_candidates
from pocketvit.reporting.source import RunFiles, read_run
from pocketvit.reporting.speed import comparisons, row_name, threads

__all__ = [
    "benchmark_table",
    "candidates_table",
    "data_report_table",
    "evaluation_table",
    "models_table",
    "predictions_table",
    "rewrites_table",
    "summary_table",
]

_STYLE = {
    "problem": "bold red",
    "error": "bold red",
    "caution": "yellow",
    "warning": "yellow",
    "note": "cyan",
}
_WEAKEST = 5
_CLASSES = 30
_PLACES = 5


def summary_table(run: RunDirectory) -> RenderableType:
    """What to print when a job ends: headline numbers, speed beside MobileNet, warnings, where the files are.

    Raises:
        RunError: `run.json` is missing, or a JSON file is damaged.
    """
    files = read_run(run)
    parts: list[RenderableType] = [_headline(files)]
    if files.benchmark:
        parts += ["", benchmark_table(files.benchmark)]
    remarks = [notice for notice in notices(files) if notice.level != "note" and notice.title != SLOWER]
    if remarks:
        parts += ["", *(_remark(notice) for notice in remarks)]
    return Group(*parts, "", _places(run, files))


def benchmark_table(benchmark: dict[str, Any]) -> Table:
    """Latency, memory and size by model and number of threads; `benchmark` is as in benchmark.json."""
    rows = sorted(benchmark["rows"], key=lambda row: (row["threads"], row["role"] != "ours"))
    cpu, runtime = benchmark["hardware"]["cpu"], benchmark["protocol"]["runtime"]
    table = _table(f"Speed on {cpu}, {runtime}")
    _columns(table, "model", numbers=("threads", "p50", "p90", "memory", "file", "params", "MACs"))
    for row in rows:
        table.add_row(
            escape(f"{row_name(row, rows)} @ {row['resolution']}"),
            str(row["threads"]),
            milliseconds(row["p50_ms"]),
            milliseconds(row["p90_ms"]),
            f"{count(row['peak_memory_mb'])} MB",
            file_size(row["bytes"]),
            count(row["params"]),
            count(row["macs"]),
            style="bold" if row["role"] == "ours" else "",
        )
    table.caption = Text("\n".join(comparisons(benchmark)))
    return table


def candidates_table(model: dict[str, Any]) -> Table:
    """The models considered for a budget, the chosen one first; `model` is as in model.json."""
    first, rest = shown_candidates(model)
    table = _table("Models considered", caption=f"and {len(rest)} more" if rest else None)
    _columns(table, "model", numbers=("input", "MACs", "params"))
    table.add_column("fits")
    table.add_column("outcome", overflow="fold")
    for row in first:
        table.add_row(
            escape(row["name"]),
            f"{row['resolution']} px",
            count(row["macs"]),
            count(row["params"]),
            "yes" if row["fits"] else "no",
            escape(row["note"]),
            style="bold" if row["chosen"] else "",
        )
    return table


def evaluation_table(evaluation: dict[str, Any]) -> RenderableType:
    """Accuracy with its interval and the weakest classes; `evaluation` is as in evaluation.json."""
    top1 = evaluation["top1"]
    title = f"top-1 {percent(top1['value'])} (95% interval {interval(top1)}, n = {evaluation['n']:,})"
    if "top5" in evaluation:
        title += f", top-5 {percent(evaluation['top5']['value'])}"
    measured = [row for row in evaluation["per_class"] if row["n"]]
    weakest = sorted(measured, key=lambda row: row["recall"])[:_WEAKEST]
    left = len(measured) - len(weakest)
    table = _table(None, caption="weakest classes first" + (f"; {left:,} more" if left else ""))
    _columns(table, "class", numbers=("recall", "precision", "images"))
    for row in weakest:
        table.add_row(
            escape(row["name"]), percent(row["recall"]), percent(row["precision"]), integer(row["n"])
        )
    return Group(Text(title, style="bold"), table)  # a table's own title is broken at the table's width


def predictions_table(answers: list[dict[str, Any]]) -> Table:
    """Classified images, each `{"image", "top": [{"class", "probability"}, …]}` or `{"image", "problem"}`."""
    table = _table(None)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for answer in answers:
        if "problem" in answer:
            table.add_row(escape(answer["image"]), Text(answer["problem"], style="yellow"), "")
            continue
        for rank, best in enumerate(answer["top"]):
            name = escape(answer["image"]) if rank == 0 else ""
            table.add_row(name, escape(best["class"]), percent(best["probability"]))
    return table


def models_table(rows: list[dict[str, Any]]) -> Table:
    """Registered models; `rows` as `pocketvit models --json` prints them."""
    hint = "Any width of MobileViTv2, such as mobilevitv2_060, and any timm name can be built as well."
    table = _table("Registered models", caption=hint)
    _columns(table, "model", numbers=("input", "MACs", "params"))
    table.add_column("pretrained weights", overflow="fold")
    table.add_column("their licence", overflow="fold")
    for row in rows:
        table.add_row(
            escape(row["name"]),
            f"{row['resolution']} px",
            count(row["macs"]),
            count(row["params"]),
            escape(row["hub_weights"] or "none"),
            escape(row["weights_licence"]) if row["hub_weights"] else "",
        )
    return table


def rewrites_table(found: dict[str, Any]) -> Table:
    """What exact rewrites save; `found` as `pocketvit models --rewrites NAME --json` prints it."""
    title = f"{found['name']} @ {found['resolution']}: exact rewrites at export"
    table = _table(title, caption="one image; − is saved, + is the price of fewer passes over memory")
    _columns(table, "rewrite", numbers=("places", "params", "MACs", "activations"))
    costs = ("params", "macs", "activations")
    table.add_row("before", "", *(count(found["before"][cost]) for cost in costs), style="bold")
    for row in found["rewrites"]:
        saved = (row[f"{cost}_saved"] for cost in costs)
        cells = ("" if not n else f"{'−' if n > 0 else '+'}{count(abs(n))}" for n in saved)
        table.add_row(row["name"].replace("_", " "), integer(row["places"]), *cells)
    table.add_row("after", "", *(count(found["after"][cost]) for cost in costs), style="bold")
    return table


def data_report_table(report: dict[str, Any]) -> RenderableType:
    """What `pocketvit doctor` found, the gravest first; `report` as `DataReport.to_dict` gives it."""
    parts: list[RenderableType] = [_class_counts(report)]
    facts = [("formats", report["formats"]), ("pixels", report["modes"])]
    lines = [
        f"{name}: {', '.join(f'{n:,} {kind}' for kind, n in found.items())}" for name, found in facts if found
    ]
    if short := report["short_side"]:
        lines.append(
            f"short sides: {short['min']} to {short['max']} pixels, half of them up to {short['median']}"
        )
    parts += ["", *(Text(line) for line in lines)] if lines else []
    parts += ["", *(_finding(finding) for finding in report["findings"])]
    if not report["findings"]:
        parts.append(Text("Nothing odd was found.", style="green"))
    return Group(*parts)


def _class_counts(report: dict[str, Any]) -> Table:
    rows = report["classes"]
    table = _table(
        report["source"], caption=f"and {len(rows) - _CLASSES:,} more" if len(rows) > _CLASSES else None
    )
    _columns(table, "class", numbers=("training images", "validation images"))
    for row in rows[:_CLASSES]:
        table.add_row(escape(row["name"]), integer(row["train"]), integer(row["val"]))
    return table


def _finding(finding: dict[str, Any]) -> Text:
    where = finding["where"]
    shown = "".join(f"\n    {place}" for place in where[:_PLACES])
    more = f"\n    and {len(where) - _PLACES:,} more; --json lists them all" if len(where) > _PLACES else ""
    return Text.assemble(
        (f"{finding['severity']}: ", _STYLE[finding["severity"]]),
        (f"{finding['what']}. ".replace(".. ", ". "), "bold"),
        finding["advice"],
        (shown + more, "dim"),
    )


def _headline(files: RunFiles) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in _headline_rows(files):
        grid.add_row(name, value)
    return grid


def _headline_rows(files: RunFiles) -> list[tuple[str, Text]]:
    rows: list[tuple[str, Text]] = []
    if model := files.model:
        text = f"{model['name']}, {model['num_classes']} classes, {model['resolution']} px input"
        rows.append(("model", Text(text, style="bold")))
        rows.append(
            ("size", Text(f"{count(model['params'])} parameters, {count(model['macs'])} MACs per image"))
        )
    if result := files.evaluation:
        top1 = result["top1"]
        text = f"{percent(top1['value'])} (95% interval {interval(top1)}, n = {result['n']:,})"
        rows.append(("accuracy (top-1)", Text(text, style="bold")))
    row = main_row(files.benchmark) if files.benchmark else None
    if row:
        text = f"{milliseconds(row['p50_ms'])} per image (p50, {threads(row['threads'])})"
        rows.append(("latency", Text(text)))
    if export := files.export:
        check = export["verification"]
        agreed = f"same answer as the network on {percent(check['top1_agreement'])} of {check['n']:,} images"
        verdict = ("verified: ", "green") if check["passed"] else ("NOT verified: ", "bold red")
        rows.append(
            ("file", Text.assemble(f"{export['file']}, {file_size(export['bytes'])}, ", verdict, agreed))
        )
    if integers := files.quantization:
        rows.append(("integers", Text(integer_words(integers))))
    if training := files.training:
        n = training["epochs"]
        length = f"{duration(training['seconds'])} for {n} {'epoch' if n == 1 else 'epochs'}"
        text = f"{length}, best epoch {training['best_epoch']}"
        rows.append(("training", Text(text)))
    return rows


def _remark(notice: Notice) -> Text:
    return Text.assemble(
        (f"{notice.level}: ", _STYLE[notice.level]), (f"{notice.title}. ", "bold"), notice.text
    )


def _places(run: RunDirectory, files: RunFiles) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("run", Text(str(run.path)))
    if files.export and run.has(files.export["file"]):
        grid.add_row("model", Text(str(run.path / files.export["file"])))
    if files.quantization:
        grid.add_row("integers", Text(str(run.path / files.quantization["file"])))
    if run.report.exists():
        grid.add_row("report", Text(str(run.report)))
    return grid


def _columns(table: Table, name: str, *, numbers: tuple[str, ...]) -> None:
    table.add_column(name, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)


def _table(title: str | None, *, caption: str | None = None) -> Table:
    return Table(
        title=None if title is None else Text(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )
