"""`pocketvit quantize`: a file that computes in integers from a trained network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pocketvit.cli import options as o
from pocketvit.core.errors import ConfigError

NAME = "quantize"
METHODS = ("pocket", "minmax", "percentile", "omse", "repqvit_integer", "hyq", "qhyvit_integer")
SIMULATED = ("easyquant", "ptq4vit", "fqvit", "repqvit", "qhyvit", "qhyvit_code")
"""The methods, here so that `--help` does not have to load them."""
EXAMPLES = """
**Examples**

`pocketvit quantize runs/photos`

`pocketvit quantize runs/photos --weights 6 --activations 6 --keep-float 'stages.0.*'`

`pocketvit quantize runs/photos --runtime openvino`

`pocketvit quantize runs/photos --average-bits 6`

`pocketvit quantize runs/photos --size-budget 0.2x`

`pocketvit quantize runs/photos --list`

`pocketvit quantize runs/photos --method qhyvit --simulate`

`pocketvit quantize weights/mobilevit_s.safetensors --data imagenet/ --out phone/`
"""


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="Run directory, weights (.safetensors with its .json), or name of a model with published "
            "weights.",
            show_default=False,
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help=f"How the integers are chosen: {', '.join(METHODS)}; with --simulate also "
            f"{', '.join(SIMULATED)}.",
        ),
    ] = "pocket",
    weights: Annotated[
        int | None,
        typer.Option("--weights", "-w", help="Bits of the weights. [default: 8]", show_default=False),
    ] = None,
    activations: Annotated[int, typer.Option("--activations", "-a", help="Bits of the activations.")] = 8,
    average_bits: Annotated[
        float | None,
        typer.Option(
            "--average-bits",
            help="Instead of --weights: at most so many bits a weight on average. Each operator gets 4, 6 "
            "or 8, so that the answers change least.",
            show_default=False,
        ),
    ] = None,
    size_budget: Annotated[
        str | None,
        typer.Option(
            "--size-budget",
            metavar="BYTES|PARTx",
            help="The same by the bytes of all parameters, weights packed: **250k**, or **0.2x** float32's.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        Literal["onnxruntime", "openvino"] | None,
        typer.Option(
            "--runtime",
            help="What will run the file: their integer kernels differ, so each has a file of its own. "
            "[default: onnxruntime; none with --simulate]",
            show_default=False,
        ),
    ] = None,
    calibration: Annotated[
        int,
        typer.Option("--calibration", "-n", min=0, help="Training images to choose by, from all classes."),
    ] = 32,
    scope: Annotated[
        Literal["partial", "full"],
        typer.Option("--scope", help="**partial** leaves norms, softmax and activation functions in float."),
    ] = "partial",
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float",
            metavar="PATTERN",
            help="Leave these operators in float: names as --list has them, with wildcards. Repeatable.",
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the operators and stop.")] = False,
    simulate: Annotated[bool, typer.Option("--simulate", help="Measure only; write no file.")] = False,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", help="Labelled images. [default: what the run was trained on]"),
    ] = None,
    val_fraction: o.ValFraction = 0.2,
    limit: o.Limit = None,
    max_damaged: o.MaxDamaged = 0.05,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed of the calibration images, and of the split of --data.")
    ] = 0,
    diagnose: Annotated[
        bool, typer.Option(help="Also find out what each operator costs, and what would help.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the files. [default: the run]", show_default=False),
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Turn a trained network into a file that computes in integers, and measure what that costs.

    A few training images choose the integers; accuracy is measured on the held-out ones: of the network, of
    the simulation of its integers, and of the file, which is announced only once it classifies as the
    simulation does. What stays in float is named, with the reason.
    """
    from pocketvit.pipeline.quantize import deliverable, describe_operators
    from pocketvit.pipeline.quantize import simulate as simulated
    from pocketvit.pipeline.subject import load_images, load_subject
    from pocketvit.quantization import QuantizationSpec
    from pocketvit.reporting.quantized import operators_table, quantization_table

    spec = QuantizationSpec(
        method=method,
        weights=8 if weights is None else weights,
        activations=activations,
        scope=scope,
        runtime=runtime,
        keep_float=tuple(keep_float or ()),
        seed=seed,
    )
    budget = _budget(weights, average_bits, size_budget)
    subject = load_subject(model)
    if listing:
        rows = describe_operators(subject, spec)
        _show(rows, operators_table(rows), as_json=as_json)
        return
    if not simulate:
        spec = deliverable(spec)
    images = load_images(
        subject, data, val_fraction=val_fraction, seed=seed, limit=limit, max_damaged=max_damaged
    )
    if simulate:
        found = simulated(subject, images, spec, calibration=calibration, diagnosis=diagnose, budget=budget)
        content = found.content
    else:
        content = _deliver(
            subject, images, spec, out, calibration=calibration, diagnosis=diagnose, budget=budget
        )
    _show(content, quantization_table(content), as_json=as_json)


def _budget(weights: int | None, average_bits: float | None, size: str | None) -> Any:
    """What is asked of the widths, `None` where they are given.

    Raises:
        ConfigError: more than one of the three is given, or a budget that cannot be read.
    """
    from pocketvit.quantization.mixed import WeightBudget

    if average_bits is None and size is None:
        return None
    if weights is not None:
        raise ConfigError(
            f"--weights {weights} gives every operator this width, while a budget chooses them.",
            fix="Give --weights, or --average-bits, or --size-budget.",
        )
    if average_bits is not None and size is not None:
        raise ConfigError("--average-bits and --size-budget are two budgets.", fix="Give one of them.")
    return WeightBudget(average_bits=average_bits, size=size)


def _deliver(
    subject: Any,
    images: Any,
    spec: Any,
    out: Path | None,
    *,
    calibration: int,
    diagnosis: bool,
    budget: Any,
) -> dict[str, Any]:
    from pocketvit.pipeline.build import quantize_run
    from pocketvit.pipeline.quantize import quantize_to_folder

    if out is not None:
        return quantize_to_folder(
            subject,
            images,
            spec,
            calibration=calibration,
            folder=out,
            diagnosis=diagnosis,
            budget=budget,
        )
    if subject.run is None:
        raise ConfigError("Where should the file go?", fix="Say so with --out FOLDER.")
    return quantize_run(
        subject.run.path, images, spec, calibration=calibration, diagnosis=diagnosis, budget=budget
    )


def _show(content: Any, table: Any, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        o.print_table(table)
