"""Everything that training changes, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.errors import CheckpointError
from pocketvit.data import Problem
from pocketvit.training.checkpoints import Checkpoint, save_checkpoint

__all__ = ["Best", "Progress", "TrainingState", "WeightsKind"]

WeightsKind = Literal["ema", "raw"]


@dataclass
class Progress:
    """Where a run is, in plain numbers.

    Attributes:
        epoch: epochs finished, validation included.
        step: batches done in all, skipped ones included.
        lr: learning rate of the last one.
        skipped: steps left out in all because loss or gradient was not finite.
        skipped_in_a_row: those since the last good one.
        resumed: times the run was taken up again.
        seconds: time spent in all, validation and checkpoints included.
        train_seconds: time spent on training batches.
        wait_seconds: the part of `train_seconds` that was waiting for images.
        epoch_batch: batches done of the epoch that is under way; so are the next four.
        epoch_loss: sum of the losses of its good steps.
        epoch_good: number of its good steps.
        epoch_seconds: its part of `train_seconds`.
        epoch_wait: its part of `wait_seconds`.
    """

    epoch: int = 0
    step: int = 0
    lr: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    resumed: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    wait_seconds: float = 0.0
    epoch_batch: int = 0
    epoch_loss: float = 0.0
    epoch_good: int = 0
    epoch_seconds: float = 0.0
    epoch_wait: float = 0.0

    def count(self, loss: float | None, *, lr: float, seconds: float, wait: float) -> None:
        """One more batch; `loss` is None when its step was skipped."""
        self.step += 1
        self.lr = lr
        self.epoch_batch += 1
        self.epoch_seconds += seconds
        self.epoch_wait += wait
        self.train_seconds += seconds
        self.wait_seconds += wait
        if loss is None:
            self.skipped += 1
            self.skipped_in_a_row += 1
        else:
            self.skipped_in_a_row = 0
            self.epoch_loss += loss
            self.epoch_good += 1

    def finish_epoch(self) -> None:
        """On to the next epoch."""
        self.epoch += 1
        self.epoch_batch = self.epoch_good = 0
        self.epoch_loss = self.epoch_seconds = self.epoch_wait = 0.0


@dataclass(frozen=True)
class Best:
    """The best weights so far, by validation score, then validation loss.

    Attributes:
        epoch: 1-based.
        value: the score, for classification the top-1 accuracy.
        loss: mean validation loss.
        weights: the moving average (`ema`) or the weights themselves (`raw`).
        tensors: a copy of the state dict.
    """

    epoch: int
    value: float
    loss: float
    weights: WeightsKind
    tensors: Mapping[str, Tensor] = field(repr=False)

    @property
    def _rank(self) -> tuple[bool, float, float]:
        return math.isfinite(self.loss), self.value, -self.loss

    def beats(self, other: Best | None) -> bool:
        """Whether this is better than `other`, or there is no other; equal is not better."""
        return other is None or self._rank > other._rank


class TrainingState:
    """Model, moving average, optimizer, loss scale, progress and best weights.

    There is no state of random number generators and of the schedule: both follow from the step (see
    `pocketvit.training.step.seed_step`), order and augmentation of the images from the epoch.

    Args:
        ema: None when the recipe has none.
        replaced: training images that could not be read, so that others took their place; the loader adds
            to it.
        pretrained: where the first weights came from. A restored state has that of its beginning: what could
            be fetched when it was taken up again says nothing about its weights.
        identity: what a checkpoint must agree on to be continued, such as recipe and data fingerprint.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        model_name: str,
        ema: ModelEmaV3 | None,
        optimizer: Optimizer,
        scaler: GradScaler,
        replaced: list[Problem],
        pretrained: PretrainedReport,
        identity: Mapping[str, Any],
    ) -> None:
        self.model = model
        self.model_name = model_name
        self.ema = ema
        self.optimizer = optimizer
        self.scaler = scaler
        self.replaced = replaced
        self.pretrained = pretrained
        self.identity = dict(identity)
        self.progress = Progress()
        self.best: Best | None = None
        self._saved = self._timed = time.perf_counter()

    def candidates(self) -> dict[WeightsKind, nn.Module]:
        """The networks this state offers: the trained weights and, where kept, their moving average."""
        return {"raw": self.model} if self.ema is None else {"ema": self.ema.module, "raw": self.model}

    def keep_better(self, validated: Best) -> Best:
        """Remember `validated`, with a copy of its tensors, if it is the best so far; return the best."""
        if self.best is None or validated.beats(self.best):
            copies = {name: tensor.clone() for name, tensor in validated.tensors.items()}
            self.best = replace(validated, tensors=copies)
        return self.best

    @property
    def seconds_since_saved(self) -> float:
        """Age of the last checkpoint, or of this state when there is none."""
        return time.perf_counter() - self._saved

    def save(self, folder: Path) -> None:
        """Write a checkpoint into `folder`; raises as `save_checkpoint`."""
        now = time.perf_counter()
        self.progress.seconds += now - self._timed
        self._timed = now
        save_checkpoint(folder, self.to_checkpoint())
        self._saved = time.perf_counter()

    def to_checkpoint(self) -> Checkpoint:
        """All of it, as named tensors and plain facts."""
        tensors = _prefixed("model", self.model.state_dict())
        if self.ema is not None:
            tensors |= _prefixed("ema", self.ema.module.state_dict())
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= _prefixed(f"optimizer.{index}", moments)
        if self.best is not None:
            tensors |= _prefixed("best", self.best.tensors)
        return Checkpoint(self.progress.step, self.model_name, tensors, self._plain_facts())

    def _plain_facts(self) -> dict[str, Any]:
        best = self.best and {f.name: getattr(self.best, f.name) for f in fields(Best) if f.name != "tensors"}
        return {
            "identity": self.identity,
            "progress": asdict(self.progress),
            "best": best,
            "scaler": self.scaler.state_dict(),
            "replaced": [asdict(problem) for problem in self.replaced],
            "pretrained": asdict(self.pretrained),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `checkpoint` holds.

        Raises:
            CheckpointError: it was made with another recipe or other data, does not fit the model, or lacks
                something that this version of pocketvit needs.
        """
        facts, tensors = checkpoint.facts, checkpoint.tensors
        if lacking := sorted(self._plain_facts().keys() - facts.keys()):
            raise CheckpointError(
                f"The checkpoint is of another version of pocketvit: it lacks {' and '.join(lacking)}.",
                fix="Go on with that version, or start again with --overwrite.",
            )
        self._check_identity(facts["identity"])
        try:
            self.model.load_state_dict(_under("model", tensors))
            if self.ema is not None:
                self.ema.module.load_state_dict(_under("ema", tensors))
        except RuntimeError as error:
            raise CheckpointError(f"The checkpoint does not fit {self.model_name}: {error}") from None
        self._restore_optimizer(_under("optimizer", tensors))
        self.scaler.load_state_dict(facts["scaler"])
        self.replaced[:] = [Problem(**problem) for problem in facts["replaced"]]
        self.pretrained = PretrainedReport(**facts["pretrained"])
        self.progress = Progress(**facts["progress"])
        self.best = None if facts["best"] is None else Best(**facts["best"], tensors=_under("best", tensors))

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = value
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, found in moments.items():
            for key, value in found.items():
                if (
                    value.shape == parameters[index].shape
                ):  # in the parameter's memory format, for the fast path
                    found[key] = torch.empty_like(parameters[index]).copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _check_identity(self, found: Mapping[str, Any]) -> None:
        changed = list(_differences(found, self.identity))
        if changed:
            raise CheckpointError(
                f"The run was started with other settings: {'; '.join(changed)}.",
                fix="Give the same settings, another --out folder, or --overwrite to start again.",
            )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    """`"lr: 0.001 before, 0.002 now"` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [line for key in keys for line in _differences(old.get(key), new.get(key), str(key))]
    return [] if old == new else [f"{name}: {old} before, {new} now"]


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
