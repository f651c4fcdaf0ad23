"""The training loop.

Each epoch: every training image once, then the moving average of the weights and the weights themselves on
the validation images; the better of the two counts. The best epoch's weights are what training delivers. So
the validation images choose among epochs, and the accuracy on them is slightly flattering.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from pocketvit.backbones import BuildOptions, Preprocessing
from pocketvit.backbones.options import DEFAULTS
from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.console import console, progress_bar
from pocketvit.core.errors import InterruptedRun, TrainingError
from pocketvit.core.files import write_text
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import ImageData
from pocketvit.tasks.classification import ClassificationTask
from pocketvit.tasks.evaluation import Batch
from pocketvit.training.batches import make_batches
from pocketvit.training.checkpoints import clear_checkpoints, load_checkpoint, save_weights
from pocketvit.training.interrupts import StopRequest
from pocketvit.training.optimizer import make_optimizer, make_schedule
from pocketvit.training.precision import MixedPrecision, resolve_precision
from pocketvit.training.recipe import Recipe
from pocketvit.training.record import card_of, epoch_line, epoch_row, origin_of, training_record
from pocketvit.training.state import Best, TrainingState
from pocketvit.training.step import seed_step, train_step
from pocketvit.training.targets import SoftTargets
from pocketvit.training.validation import validate

__all__ = ["WEIGHTS", "TrainingResult", "train"]

WEIGHTS = "model.safetensors"
"""Name of the deployable weights in the run's checkpoint folder."""

SAVE_EVERY = 300.0
"""Seconds between checkpoints inside an epoch; there is one after every epoch besides."""

GIVE_UP_AFTER = 10
"""Steps in a row without a finite loss."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What training delivers.

    Attributes:
        model: the network with the best weights, in evaluation mode.
        weights: the file they are in.
        best: where they come from and how they scored on the validation images.
        record: the content of `training.json`.
    """

    model: nn.Module
    weights: Path
    best: Best
    record: dict[str, Any]


def train(
    model: nn.Module,
    data: ImageData,
    preprocessing: Preprocessing,
    recipe: Recipe,
    run: RunDirectory,
    *,
    task: ClassificationTask,
    device: torch.device,
    model_name: str,
    pretrained: PretrainedReport,
    options: BuildOptions = DEFAULTS,
    resume: bool = True,
) -> TrainingResult:
    """Train `model` and leave `training.json`, `metrics.jsonl` and the weights in `run`.

    On the CPU an interrupted and resumed run ends with the very weights of an uninterrupted one.

    Args:
        model: a classifier with as many outputs as `data` has classes.
        model_name: its registered name, recorded with the weights.
        pretrained: where its first weights come from, for the record. A resumed run has those it began with.
        options: how it was built, recorded with the weights.
        resume: go on from the run's last checkpoint when there is one; otherwise start again.

    Raises:
        CheckpointError: the checkpoint is of another model, recipe or data, or none is whole.
        InterruptedRun: SIGINT or SIGTERM came; the state is saved.
        StorageError: the disk is full; the last checkpoint stays usable.
        TrainingError: the loss is no longer a number.
    """
    layout = torch.channels_last if recipe.channels_last and device.type != "mps" else torch.contiguous_format
    precision = MixedPrecision(name=resolve_precision(recipe.precision, device), device=device)
    soften = SoftTargets(
        num_classes=len(data.classes),
        label_smoothing=recipe.label_smoothing,
        mixup=recipe.mixup,
        cutmix=recipe.cutmix,
    )
    train_batches, val_batches = make_batches(data, preprocessing, recipe, device)
    steps = len(train_batches)
    images_per_epoch = min(steps * recipe.batch_size, len(data.train))
    model.to(device, memory_format=layout)  # type: ignore[call-overload] - torch's stub lacks this combination
    optimizer = make_optimizer(model, recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=steps)
    ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    state = TrainingState(
        model=model,
        model_name=model_name,
        ema=ema,
        optimizer=optimizer,
        scaler=precision.scaler,
        replaced=train_batches.replaced,
        pretrained=pretrained,
        identity=_identity(recipe, data, preprocessing) | options.to_dict(),
    )
    _begin(state, run, resume=resume)
    done = state.progress

    with StopRequest() as stop, progress_bar(note="loss") as bar:
        line = bar.add_task("training", total=recipe.epochs * steps, completed=done.step, loss="")
        while done.epoch < recipe.epochs:
            try:
                model.train()
                train_batches.set_epoch(done.epoch, start=done.epoch_batch * recipe.batch_size)
                for (images, labels, _), wait in _timed(stop.watch(train_batches)):  # (B, 3, S, S), (B,)
                    began = time.perf_counter()
                    schedule.step_update(done.step)
                    lr = optimizer.param_groups[0]["lr"]
                    seed_step(recipe.seed, done.step)
                    images = images.to(device, memory_format=layout, non_blocking=True)
                    images, targets = soften(images, labels.to(device, non_blocking=True))  # targets (B, C)
                    loss = train_step(
                        model,
                        optimizer,
                        task.loss,
                        images,
                        targets,
                        precision=precision,
                        clip_grad=recipe.clip_grad,
                    )
                    if ema is not None and loss is not None:
                        ema.update(model, step=done.step + 1)
                    done.count(loss, lr=lr, wait=wait, seconds=wait + time.perf_counter() - began)
                    _give_up_if_lost(state, recipe, steps)
                    bar.update(
                        line, completed=done.step, loss="skipped" if loss is None else f"loss {loss:.3f}"
                    )
                    if state.seconds_since_saved > SAVE_EVERY:
                        state.save(run.checkpoints)
                validated = validate(state, stop.watch(val_batches), task, device, layout)
            except InterruptedRun as stopped:
                state.save(run.checkpoints)
                raise _told(stopped, run, state, recipe, steps) from None
            best = state.keep_better(validated)
            row = epoch_row(done, validated, images=images_per_epoch)
            run.append_metrics(row)
            done.finish_epoch()
            state.save(run.checkpoints)
            console.print(epoch_line(row, best, epochs=recipe.epochs), soft_wrap=True)

    best = state.best
    assert best is not None  # there was at least one epoch
    model.load_state_dict(best.tensors)
    weights = run.checkpoints / WEIGHTS
    save_weights(
        weights,
        model.eval(),
        card_of(model_name, options, data, preprocessing, state.pretrained, best),
        training=origin_of(data, state.pretrained, best),
    )
    record = training_record(
        state,
        best,
        recipe,
        precision=precision.name,
        images=images_per_epoch,
    )
    run.write("training.json", record)
    return TrainingResult(model=model, weights=weights, best=best, record=record)


def _begin(state: TrainingState, run: RunDirectory, *, resume: bool) -> None:
    """Take up the run's last checkpoint, or clear away what an earlier training left."""
    checkpoint = load_checkpoint(run.checkpoints, architecture=state.model_name) if resume else None
    if checkpoint is None:
        clear_checkpoints(run.checkpoints)
    else:
        loaded = state.pretrained
        state.restore(checkpoint)
        state.progress.resumed += 1
        done = state.progress
        console.print(f"  going on after epoch {done.epoch}, batch {done.epoch_batch} of the next")
        if state.pretrained.message != loaded.message:
            console.print(f"  this training began otherwise: {escape(state.pretrained.message)}")
    rows = [row for row in run.read_metrics() if row["epoch"] <= state.progress.epoch]
    write_text(run.path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds it was waited for."""
    iterator = iter(batches)
    while True:
        began = time.perf_counter()
        batch = next(iterator, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - began


def _give_up_if_lost(state: TrainingState, recipe: Recipe, steps: int) -> None:
    done = state.progress
    epoch_is_lost = done.epoch_batch == steps and done.epoch_good == 0
    if done.skipped_in_a_row < GIVE_UP_AFTER and not epoch_is_lost:
        return
    raise TrainingError(
        f"The loss or its gradient was not a number {done.skipped_in_a_row} times in a row, the last time in "
        f"epoch {done.epoch + 1}, step {done.epoch_batch} of {steps}, at learning rate {done.lr:.2g}. "
        "The last checkpoint is kept.",
        fix=f"Try a lower learning rate (--set lr={recipe.lr / 3:.2g}), a longer warm-up "
        f"(--set warmup_epochs={recipe.warmup_epochs * 2 + 1:g}) or --set precision=float32.",
    )


def _told(
    stopped: InterruptedRun, run: RunDirectory, state: TrainingState, recipe: Recipe, steps: int
) -> InterruptedRun:
    done = state.progress
    return InterruptedRun(
        f"{stopped.message} Epoch {done.epoch + 1} of {recipe.epochs}, step {done.epoch_batch} of {steps}: "
        f"everything up to here is saved in {run.path}.",
        fix=f"Go on with: pocketvit {_verb(run)} --resume {shlex.quote(str(run.path))}",
    )


def _verb(run: RunDirectory) -> str:
    """The command that was interrupted: `build` or `train`."""
    command = run.read("run.json")["command"] if run.has("run.json") else ""
    return "train" if command.startswith("pocketvit train") else "build"


def _identity(recipe: Recipe, data: ImageData, preprocessing: Preprocessing) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues it."""
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"name", "workers"}),
        "preprocessing": preprocessing.to_dict(),
        "data": data.fingerprint,
        "training images": len(data.train),
    }
