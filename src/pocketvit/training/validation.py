"""After each epoch: which weights are better, and how good."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from pocketvit.core.errors import TrainingError
from pocketvit.tasks.classification import ClassificationTask
from pocketvit.tasks.evaluation import Batch, torch_predictor
from pocketvit.training.state import Best, TrainingState

__all__ = ["validate"]


def validate(
    state: TrainingState,
    batches: Iterable[Batch],
    task: ClassificationTask,
    device: torch.device,
    layout: torch.memory_format,
) -> Best:
    """The better of the moving average and the weights themselves, in one pass over the validation images.

    Returns:
        Score and weights; the tensors are the live ones, not a copy.

    Raises:
        TrainingError: the outputs are not numbers.
    """
    networks = state.candidates()
    predictors = {kind: torch_predictor(net, device, memory_format=layout) for kind, net in networks.items()}
    metrics = {kind: task.metrics() for kind in networks}
    for images, labels, _ in batches:
        for kind, predict in predictors.items():
            metrics[kind].update(predict(images), labels)
    best: Best | None = None
    for kind, network in networks.items():
        score = metrics[kind].compute()
        found = Best(state.progress.epoch + 1, score.value, score.loss, kind, network.state_dict())
        best = found if found.beats(best) else best
    assert best is not None
    if not math.isfinite(best.loss):
        raise TrainingError(
            f"After epoch {best.epoch} the network's outputs on the validation images are not numbers.",
            fix="Lower the learning rate (--set lr=…), or compute in float32 (--set precision=float32).",
        )
    return best
