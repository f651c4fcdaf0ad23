"""What a reader must know before trusting the numbers: every rule looks at the JSON and speaks plainly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pocketvit.reporting.format import (
    duration,
    interval,
    percent,
    points,
    tiny,
)
from pocketvit.reporting.source import STAGES, RunFiles
from pocketvit.reporting.speed import comparisons

__all__ = ["SLOWER", "Notice", "clean_record", "notices"]

SLOWER = "Slower than the usual alternative"
"""Title of the remark that repeats what `comparisons` says."""

_WIDE_INTERVAL = 0.05
_FEW_IMAGES = 10
_IMBALANCE = 5
_WAITING = 0.3
_RANK = {"problem": 0, "caution": 1, "note": 2}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One remark.

    Attributes:
        level: `problem` (do not use the result as it is), `caution` (read the number with care) or `note`.
        title: what it is, in a few words.
        text: what it means for the reader.
        items: details to list, such as file names with reasons.
    """

    level: Literal["problem", "caution", "note"]
    title: str
    text: str
    items: tuple[str, ...] = ()


def notices(files: RunFiles) -> list[Notice]:
    """All remarks on a run, the gravest first."""
    rules: tuple[Callable[[RunFiles], Iterator[Notice]], ...] = (
        _unfinished,
        _verification,
        _integers,
        _accuracy,
        _data,
        _training,
        _selection,
        _model,
        _speed,
    )
    found = [notice for rule in rules for notice in rule(files)]
    return sorted(found, key=lambda notice: _RANK[notice.level])


def clean_record(files: RunFiles) -> str:
    """A sentence when nothing was skipped or left out; empty when something was, or is not known yet."""
    data, training = files.data, files.training
    if data is None or training is None or data["problems"]:
        return ""
    if training["skipped_steps"] or training["replaced_samples"]:
        return ""
    looked_at = data["checked"] or data["n_train"] + data["n_val"]
    return (
        f"Nothing was skipped: all {looked_at:,} images could be read, no image was replaced during training "
        "and no training step was left out."
    )


def _unfinished(files: RunFiles) -> Iterator[Notice]:
    if files.missing:
        names = ", ".join(STAGES[stage] for stage in files.missing)
        yield Notice(
            level="caution",
            title="This job is not finished",
            text=f"Not run yet: {names}. `pocketvit build --resume` with this run directory does the rest.",
        )


def _verification(files: RunFiles) -> Iterator[Notice]:
    check = (files.export or {}).get("verification")
    if files.export and check and not check["passed"]:
        yield Notice(
            level="problem",
            title="The model file was not verified",
            text=f"{files.export['file']} and the trained network agree on "
            f"{percent(check['top1_agreement'])} of {check['n']:,} images and their scores differ by up to "
            f"{tiny(check['max_abs_diff'])} (allowed: {tiny(check['tolerance'])}). Do not deploy this file.",
        )


def _integers(files: RunFiles) -> Iterator[Notice]:
    content = files.quantization
    if content is None:
        return
    for row in content["verification"]:
        if not row["passed"]:
            yield Notice(
                level="caution",
                title=f"The integer file was not verified in {row['runtime']}",
                text=f"There it gives the class that was intended for {percent(row['agreement'])} of "
                f"{row['n']:,} images only. Use {content['file']} in the runtimes where it was verified.",
            )
    before, after = content["accuracy"]["float"], content["accuracy"]["file"]
    if after["high"] < before["value"]:
        yield Notice(
            level="caution",
            title="Integers cost accuracy",
            text=f"{content['file']} is right on {percent(after['value'])} of the validation images, the "
            f"network in float on {percent(before['value'])}. More bits, or `--keep-float` for the operators "
            "that suffer most, may help.",
        )


def _accuracy(files: RunFiles) -> Iterator[Notice]:
    result = files.evaluation
    if result is None or not result["n"]:
        return
    top1, rows = result["top1"], [row for row in result["per_class"] if row["n"]]
    if len(rows) > 1:
        largest = max(rows, key=lambda row: row["n"])
        share = largest["n"] / result["n"]
        if top1["low"] <= share:
            yield Notice(
                level="problem",
                title="Not clearly better than guessing",
                text=f"Always answering “{largest['name']}” would be right on {percent(share)} of these "
                f"images; the model's accuracy is {percent(top1['value'])} ({interval(top1)}).",
            )
    elif rows:
        yield Notice(
            level="problem",
            title="All measured images are of one class",
            text=f"Every image is of “{rows[0]['name']}”, so the accuracy says nothing about telling classes "
            "apart.",
        )
    if top1["high"] - top1["low"] > _WIDE_INTERVAL:
        yield Notice(
            level="caution",
            title="Few images to measure on",
            text=f"With {result['n']:,} images the true accuracy may lie anywhere from {interval(top1)}, "
            f"{points(top1['high'] - top1['low'])} apart. More validation images narrow this.",
        )
    never = [row["name"] for row in rows if row["recall"] == 0]
    if never:
        yield Notice(
            level="caution",
            title=f"{len(never)} {_plural('class', len(never))} never recognised",
            text="Not one validation image of these was classified correctly.",
            items=tuple(never),
        )


def _data(files: RunFiles) -> Iterator[Notice]:
    data = files.data
    if data is None:
        return
    if data["problems"]:
        n = len(data["problems"])
        yield Notice(
            level="caution",
            title=f"{n:,} {_plural('image', n)} left out",
            text=f"{n:,} of {data['checked']:,} images that were looked at could not be used.",
            items=tuple(f"{problem['key']}: {problem['problem']}" for problem in data["problems"]),
        )
    train, val = data["counts"]["train"], data["counts"]["val"]
    if train and max(train) >= _IMBALANCE * max(min(train), 1):
        small, large = train.index(min(train)), train.index(max(train))
        yield Notice(
            level="caution",
            title="The classes are not balanced",
            text=f"“{data['classes'][large]}” has {train[large]:,} training images, "
            f"“{data['classes'][small]}” has {train[small]:,}. Rare classes are usually recognised less "
            "well: see recall per class.",
        )
    few = [f"{name}: {n}" for name, n in zip(data["classes"], val, strict=True) if n < _FEW_IMAGES]
    if few:
        yield Notice(
            level="caution",
            title=f"{len(few)} {_plural('class', len(few))} with fewer than {_FEW_IMAGES} validation images",
            text="The numbers of these single classes are hardly more than anecdotes.",
            items=tuple(few),
        )
    if files.model and data["typical_size"] and files.model["resolution"] > 1.25 * data["typical_size"]:
        yield Notice(
            level="note",
            title="Images are enlarged",
            text=f"Typical images are {data['typical_size']} pixels on their short side and are enlarged to "
            f"the {files.model['resolution']} pixels the model takes in; later photos may be sharper.",
        )


def _training(files: RunFiles) -> Iterator[Notice]:
    training = files.training
    if training is None:
        return
    if not training["pretrained"]["used"]:
        yield Notice(
            level="note",
            title="Trained from scratch",
            text=f"{_sentence(training['pretrained']['message'])}No pretrained weights were used; with them, "
            "fewer images and epochs usually reach a higher accuracy.",
        )
    if training["skipped_steps"]:
        n = training["skipped_steps"]
        yield Notice(
            level="caution",
            title=f"{n:,} training {_plural('step', n)} skipped",
            text="The loss or its gradient was not a finite number there: the weights stayed as they were.",
        )
    if training["replaced_samples"]:
        n = len(training["replaced_samples"])
        yield Notice(
            level="caution",
            title=f"{n:,} {_plural('image', n)} replaced during training",
            text="They could not be read when their turn came; another image was drawn in their place.",
            items=tuple(f"{sample['key']}: {sample['problem']}" for sample in training["replaced_samples"]),
        )
    if training["resumed"]:
        n = training["resumed"]
        yield Notice(
            level="note",
            title=f"Interrupted and resumed {'once' if n == 1 else f'{n} times'}",
            text="Training went on from the last saved state.",
        )
    if training["data_wait_share"] > _WAITING:
        yield Notice(
            level="note",
            title="Training waited for images",
            text=f"{percent(training['data_wait_share'])} of the training time "
            f"({duration(training['seconds'])}) went into waiting for image loading. More loading processes "
            "(`--workers`) may shorten it.",
        )
    if training["epochs"] > 1 and training["best_epoch"] == training["epochs"]:
        yield Notice(
            level="note",
            title="The last epoch was the best",
            text="The model may still have been improving; more epochs might raise the accuracy.",
        )


def _selection(files: RunFiles) -> Iterator[Notice]:
    if (
        files.training
        and files.evaluation
        and files.evaluation["split"] == "val"
        and files.training["epochs"] > 1
    ):
        yield Notice(
            level="note",
            title="The accuracy is slightly flattering",
            text="The best epoch was picked on the same validation images the accuracy is measured on. For "
            "an unbiased number, run `pocketvit evaluate` with `--data` and `--split all` on images that "
            "were never used here.",
        )


def _model(files: RunFiles) -> Iterator[Notice]:
    model = files.model
    if model is None:
        return
    for key, unit in (("macs", "MACs"), ("params", "parameters")):
        limit = model["budget"][key]
        if limit is not None and model[key] > limit:
            yield Notice(
                level="problem",
                title=f"Over budget: {unit}",
                text=f"{model['name']} has {model[key]:,} {unit}; the budget was {limit:,}.",
            )
    used = files.training and files.training["pretrained"]["used"]
    licence = files.training["pretrained"]["licence"] if files.training else ""
    if used and any(
        word in licence.lower() for word in ("not open", "non-commercial", "noncommercial", "research")
    ):
        yield Notice(
            level="caution",
            title="The pretrained weights are not under an open licence",
            text=f"Training started from weights under: {licence}. Check that it allows your use.",
        )


def _speed(files: RunFiles) -> Iterator[Notice]:
    if files.benchmark is None:
        return
    slower = [sentence for sentence in comparisons(files.benchmark) if " slower than " in sentence]
    if slower:
        yield Notice(level="caution", title=SLOWER, text=" ".join(slower))
    # A machine that is busy throughout slows the typical call as much as the slow one, but not the fastest.
    noisy = [
        row
        for row in files.benchmark["rows"]
        if row["p90_ms"] > 1.5 * row["p50_ms"] or row["p50_ms"] > 2 * row["min_ms"]
    ]
    if noisy:
        yield Notice(
            level="caution",
            title="Timings were unsteady",
            text=f"In {len(noisy)} of {len(files.benchmark['rows'])} measurements one call in ten took over "
            "1.5 times as long as the typical one, or that over twice as long as the fastest: other work was "
            "probably running on this machine.",
        )


def _plural(word: str, n: int) -> str:
    return word if n == 1 else word + ("es" if word.endswith("s") else "s")


def _sentence(text: str) -> str:
    text = text.strip()
    return "" if not text else text + ("" if text.endswith((".", "!", "?")) else ".") + " "
