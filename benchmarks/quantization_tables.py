"""Tables of benchmarks/results/quantization.json, on the terminal or as a page.

    python benchmarks/quantization_tables.py [--results benchmarks/results/quantization.json]
        [--page docs/quantization-results.md] [--readme README.md]

README has an overview of every file of results that it has two comments for. A method's row has the mean over
networks only if it was run on all of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from pocketvit.quantization import METHODS
from quantization_leads import Lead, furthest, rivals, second_look, second_look_beside

RESULTS = Path(__file__).parent / "results" / "quantization.json"
INTRODUCTION = """\
# Accuracy after post-training quantization

Written by `python benchmarks/quantization_tables.py --page` from `benchmarks/results/{results}`,
which `benchmarks/quantization.py` fills, and which has every cell's 95% interval and the processor it was
measured on.

A cell is the mean over draws of 32 calibration images, with the standard deviation where there are several
draws. A dot was not run; a mean over networks is given where a method was run on all of them. Half a point is
12 of 2,500 images: smaller differences are noise. Methods are scored in simulation, files
(`pocket_onnxruntime`, `pocket_openvino`) and stock tools in the runtimes they are for, `torchao_xnnpack` in
simulation. The last table is of the files beside their own simulation in float64, the one before it of how
sure it is that another method or tool loses less than `pocket`: the standard error of the difference is that
of pairs, image by image. Older cells do not say which images were right; for these it is a bound, from how
many each of the two put in another class than the float network. Of so many methods, some are two standard
errors ahead by chance.
"""
SECOND_LOOK = """\
What is ahead of `pocket` was measured a second time, on the test images that the other tables are not of
(`--ahead-in`): a lead that was chance is not there again.
"""
MARK = "†"
"""Of cells that earlier code measured."""
OVERVIEW = {
    "pocket": "`pocket` (ours)",
    "minmax": "min-max",
    "omse": "OMSE ranges",
    "easyquant": "EasyQuant",
    "fqvit": "FQ-ViT",
    "ptq4vit": "PTQ4ViT",
    "repqvit": "RepQ-ViT",
    "qhyvit": "Q-HyViT",
    "pocket_onnxruntime": "`pocket`'s file in ONNX Runtime",
    "pocket_openvino": "`pocket`'s file in OpenVINO",
    "nncf_default": "NNCF default (OpenVINO)",
    "ort_static_products": "ONNX Runtime static, products only",
    "ort_static_products_7_bits": "the same, 7-bit weights",
    "ort_static_all": "ONNX Runtime static, all operators",
    "torchao_xnnpack": "torchao PT2E, XNNPACK quantizer",
}
"""Methods of README's table."""
AGREEMENT = {
    "pocket_onnxruntime": "file and simulation agree, ONNX Runtime, %",
    "pocket_openvino": "file and simulation agree, OpenVINO, %",
}
"""Files whose agreement with their simulation is in README's table."""
BEGIN, END = "<!-- begin table of {results} -->\n", "<!-- end table of {results} -->\n"
"""The comments in README that the overview of a file of results goes between."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Printed:
    """A table in words."""

    title: str
    head: list[str]
    rows: list[list[str]]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="write them here as Markdown")
    parser.add_argument(
        "--readme", type=Path, help="put the overview between the results' two comments there"
    )
    args = parser.parse_args(arguments)
    found, fresh = read(args.results)
    if args.page:
        args.page.write_text(page(found, args.results.name, fresh))
    if args.readme:
        args.readme.write_text(with_overview(args.readme.read_text(), found, args.results.name))
    if not args.page and not args.readme:
        show(found, fresh)


def read(results: Path) -> tuple[Row, Row | None]:
    """A file of results, and the second look beside it if there is one."""
    beside = second_look_beside(results)
    return json.loads(results.read_text()), json.loads(beside.read_text()) if beside.is_file() else None


def show(found: Row, fresh: Row | None = None) -> None:
    """Print every table that has cells, with the second look at what is ahead if there is one."""
    console = Console(width=200)
    for printed in tables(found, fresh):
        table = Table(title=printed.title)
        for i, name in enumerate(printed.head):
            table.add_column(name, justify="right" if i else "left")
        for row in printed.rows:
            table.add_row(*row)
        console.print(table)
    for line in footnotes(found):
        console.print(line)


def page(found: Row, results: str = RESULTS.name, fresh: Row | None = None) -> str:
    """Every table that has cells of the file `results`, as Markdown."""
    parts = [f"## {printed.title}\n\n{markdown(printed)}" for printed in tables(found, fresh)]
    introduction = [INTRODUCTION.format(results=results), *([SECOND_LOOK] if fresh else [])]
    return "\n".join([*introduction, *footnotes(found), *parts])


def footnotes(found: Row) -> list[str]:
    """What the mark at a cell means, if one has it."""
    reasons = dict.fromkeys(c["outdated"] for c in found["cells"] if "outdated" in c)
    return [f"{MARK} Measured by earlier code: {'; '.join(reasons)}.\n"] if reasons else []


def with_overview(text: str, found: Row, results: str = RESULTS.name) -> str:
    """`text` with the overview of the file `results` between its two comments.

    Raises:
        SystemExit: `text` does not have them.
    """
    first, last = (comment.format(results=results) for comment in (BEGIN, END))
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"The file has no lines {first}and {last}, between which the table would go.")
    notes = ["", *footnotes(of_overview(found))]
    return before + first + markdown(overview(found)) + "\n".join(notes) + last + after


def markdown(printed: Printed) -> str:
    """The table as Markdown."""
    lines = [printed.head, ["---", *["---:"] * (len(printed.head) - 1)], *printed.rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def overview(found: Row) -> Printed:
    """Points lost in partial scope, both widths in one cell, by the best known methods and in files.

    The files' agreement with their simulation comes last.
    """
    networks = found["networks"]
    cells = [select(found, "partial", label) for label in ("W8A8", "W6A6")]
    verified = [[c for c in of_width if "verification" in c] for of_width in cells]
    rows = [
        *both_widths(networks, cells, points, OVERVIEW),
        *both_widths(networks, verified, same_class, AGREEMENT),
    ]
    top1 = [f"{name} {100 * network['top1']['value']:.1f}%" for name, network in networks.items()]
    return Printed("Points of top-1 lost", ["W8A8 / W6A6", *top1, "mean"], rows)


def of_overview(found: Row) -> Row:
    """The results with no other cells than those that the overview is of."""
    cells = [c for c in found["cells"] if c["scope"] == "partial" and c["method"] in OVERVIEW]
    return {**found, "cells": cells}


def both_widths(
    networks: Iterable[str], cells: list[list[Row]], value: Callable[[Row], float], names: dict[str, str]
) -> Iterator[list[str]]:
    """A row for each method that has a name and a cell; `cells` are of one width each."""
    known = {c["method"] for c in chain(*cells)}
    widths = [
        {method: row for method, *row in by_method(networks, of_width, value, spread=False)}
        for of_width in cells
    ]
    for method in [m for m in names if m in known]:
        rows = [found[method] for found in widths if method in found]
        yield [names[method], *map(" / ".join, zip(*rows, strict=True))]


def tables(found: Row, fresh: Row | None = None) -> Iterator[Printed]:
    """The networks; points of top-1 lost and seconds, for each scope and width; what is ahead; files."""
    networks = found["networks"]
    head = [
        "network",
        "float32 top-1",
        "95% interval",
        "training images",
        "test images",
        "operators quantized",
    ]
    yield Printed("Networks", head, [describe(name, network) for name, network in networks.items()])
    for scope, label in product(("partial", "full"), ("W8A8", "W6A6")):
        cells = select(found, scope, label)
        if not cells:
            continue
        head = ["method", *networks, "mean"]
        lost, time = by_method(networks, cells, points), by_method(networks, cells, seconds, digits=1)
        yield Printed(f"Points of top-1 lost, {label}, {scope} scope (less is better)", head, list(lost))
        yield Printed(f"Seconds of the processor, {label}, {scope} scope", head, list(time))
    ahead = list(leads(found))
    if ahead:
        head = ["network", "width", "scope", "compared", "furthest", "ahead by", "standard error", "ratio"]
        yield Printed("The method that is furthest ahead of `pocket`, in standard errors", head, ahead)
    if fresh and (again := list(looks(found, fresh))):
        n = next(iter(fresh["networks"].values()))["n"]
        head = ["network", "width", "scope", "ahead", "by", "on other images", "standard error", "ratio"]
        yield Printed(f"All that is ahead of `pocket`, and by how much on {n:,} other images", head, again)
    verified = [c for c in found["cells"] if "verification" in c]
    if verified:
        yield Printed(
            "Images that a file puts in the class its simulation does, %, points of top-1 between them, "
            "and what rounding in float32 alone leaves of the first, %",
            ["file", *networks],
            list(agreements(networks, verified)),
        )


def select(found: Row, scope: str, label: str) -> list[Row]:
    """Cells of this scope and width."""
    return [c for c in found["cells"] if (c["scope"], c["label"]) == (scope, label)]


def describe(name: str, network: Row) -> list[str]:
    """The row of a network."""
    top1 = network["top1"]
    interval = f"{100 * top1['low']:.1f} to {100 * top1['high']:.1f}%"
    counts = (network["n_train"], network["n"], network["quantized_operators"])
    return [name, f"{100 * top1['value']:.1f}%", interval, *(f"{n:,}" for n in counts)]


def by_method(
    networks: Iterable[str],
    cells: list[Row],
    value: Callable[[Row], float],
    digits: int = 2,
    *,
    spread: bool = True,
) -> Iterator[list[str]]:
    """A row for each method that was run, with the mean if it was run on every network."""
    for method in dict.fromkeys([*METHODS, *(c["method"] for c in cells)]):
        mine = [c for c in cells if c["method"] == method]
        if mine:
            groups = [[c for c in mine if c["model"] == name] for name in networks]
            values = [[value(c) for c in group] for group in groups]
            mean = [fmean(map(fmean, values))] if all(values) else []
            yield [
                method,
                *(
                    text(found, digits, spread=spread) + mark(group)
                    for found, group in zip([*values, mean], [*groups, mine if mean else []], strict=True)
                ),
            ]


def leads(found: Row) -> Iterator[list[str]]:
    """A row for each network, width and scope: what is furthest ahead of `pocket`, if anything is."""
    for there in rivals(found):
        best = furthest(there)
        name = (best.method, points_ahead(best.lead), *sureness(best.lead))
        yield [*best.place, str(len(there)), *(name if best.lead.points > 0 else ("none", "·", "·", "·"))]


def looks(found: Row, fresh: Row) -> Iterator[list[str]]:
    """A row for all that is ahead of `pocket`: its lead there, and on the images of `fresh`."""
    for look in second_look(found, fresh):
        of_table = points_ahead(look.first.lead)
        yield [
            *look.first.place,
            look.first.method,
            of_table,
            points_ahead(look.fresh),
            *sureness(look.fresh),
        ]


def points_ahead(lead: Lead) -> str:
    """By how many points a method is ahead."""
    return f"{lead.points:z.2f}".replace("-", "−")


def sureness(lead: Lead) -> tuple[str, str]:
    """The standard error of a lead, and how many of them it is."""
    at_most, beyond = ("", "") if lead.exact else ("≤ ", "≥ " if lead.points > 0 else "≤ ")
    return f"{at_most}{lead.error:.2f}", f"{beyond}{lead.ratio:z.1f}".replace("-", "−")


def mark(cells: Iterable[Row]) -> str:
    """The mark, if earlier code measured one of the cells."""
    return MARK if any("outdated" in c for c in cells) else ""


def agreements(networks: Iterable[str], cells: list[Row]) -> Iterator[list[str]]:
    """A row for each kind of file."""
    for row in sorted({kind(c) for c in cells}):
        mine = {c["model"]: c for c in cells if kind(c) == row}
        yield [" ".join(row), *(agreement(mine.get(name)) for name in networks)]


def agreement(cell: Row | None) -> str:
    """A file's cell, a dot if it was not verified."""
    if cell is None:
        return "·"
    verified = cell["verification"]
    between = 100 * abs(verified["accuracy_file"] - verified["accuracy_simulation"])
    alone = verified.get("rounding_agreement")
    left = "·" if alone is None else f"{100 * alone:.2f}"
    return f"{100 * verified['agreement']:.2f} / {between:.2f} / {left}{mark([cell])}"


def kind(cell: Row) -> tuple[str, str, str]:
    """What tells rows of files apart."""
    return cell["method"], cell["label"], cell["scope"]


def points(cell: Row) -> float:
    """Points of top-1 lost."""
    return 100 * cell["drop"]


def same_class(cell: Row) -> float:
    """Share of images that a file puts in the class its simulation does, %."""
    return 100 * cell["verification"]["agreement"]


def seconds(cell: Row) -> float:
    """Seconds of the processor."""
    return cell["cpu_seconds"]


def text(values: list[float], digits: int, *, spread: bool) -> str:
    """A cell: its draws' mean, and with `spread` their standard deviation if there are several."""
    if not values:
        return "·"
    mean = f"{fmean(values):z.{digits}f}".replace("-", "−")
    return f"{mean} ± {stdev(values):.{digits}f}" if spread and len(values) > 1 else mean


if __name__ == "__main__":
    main()
