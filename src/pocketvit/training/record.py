"""What training writes for others to read: the row of an epoch, `training.json`, the card of the weights."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pocketvit._version import __version__
from pocketvit.backbones import BuildOptions, Preprocessing, get_entry
from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.data import ImageData
from pocketvit.tasks import ModelCard
from pocketvit.training.recipe import Recipe
from pocketvit.training.state import Best, Progress, TrainingState

__all__ = ["card_of", "epoch_line", "epoch_row", "origin_of", "training_record"]


def epoch_row(progress: Progress, validated: Best, *, images: int) -> dict[str, Any]:
    """The row of `metrics.jsonl` for the epoch that `progress` just went through.

    Args:
        validated: the better of the epoch's two sets of weights.
        images: training images of one epoch.
    """
    return {
        "epoch": progress.epoch + 1,
        "lr": float(f"{progress.lr:.6g}"),
        "train_loss": round(progress.epoch_loss / progress.epoch_good, 6),
        "val_loss": round(validated.loss, 6),
        "val_top1": round(validated.value, 6),
        "seconds": round(progress.epoch_seconds, 3),
        "images_per_second": round(images / progress.epoch_seconds, 2),
        "data_wait_share": round(progress.epoch_wait / progress.epoch_seconds, 4),
    }


def epoch_line(row: dict[str, Any], best: Best, *, epochs: int) -> str:
    """The row for people."""
    mark = " (best)" if best.epoch == row["epoch"] else ""
    return (
        f"  epoch {row['epoch']:>{len(str(epochs))}}/{epochs}  loss {row['train_loss']:.3f}  held out: "
        f"loss {row['val_loss']:.3f}  top-1 {row['val_top1']:.2%}{mark}  {row['seconds']:.1f} s"
    )


def training_record(
    state: TrainingState,
    best: Best,
    recipe: Recipe,
    *,
    precision: str,
    images: int,
) -> dict[str, Any]:
    """The content of `training.json`.

    Args:
        images: training images of one epoch.
    """
    done, pretrained = state.progress, state.pretrained
    return {
        "recipe": recipe.model_dump(mode="json"),
        "pretrained": {
            "used": pretrained.used,
            "source": pretrained.source,
            "licence": pretrained.licence,
            "message": pretrained.message,
            "matched": pretrained.matched,
        },
        "device": str(next(state.model.parameters()).device),
        "precision": precision,
        "epochs": done.epoch,
        "best_epoch": best.epoch,
        "weights": best.weights,
        "seconds": round(done.seconds, 2),
        "resumed": done.resumed,
        "images_per_second": round(done.epoch * images / done.train_seconds, 2),
        "data_wait_share": round(done.wait_seconds / done.train_seconds, 4),
        "skipped_steps": done.skipped,
        "replaced_samples": [asdict(problem) for problem in state.replaced],
    }


def card_of(
    model_name: str,
    options: BuildOptions,
    data: ImageData,
    preprocessing: Preprocessing,
    pretrained: PretrainedReport,
    best: Best,
) -> ModelCard:
    """What travels with the weights."""
    entry = get_entry(model_name)
    own = "as the owner of the training images says"
    return ModelCard(
        name=model_name,
        classes=data.classes,
        preprocessing=preprocessing,
        code_licence=entry.code_licence,
        weights_licence=pretrained.licence if pretrained.used else own,
        source=entry.source,
        training_data=data.fingerprint,
        accuracy=round(best.value, 6),
        options=options,
    )


def origin_of(data: ImageData, pretrained: PretrainedReport, best: Best) -> dict[str, Any]:
    """How the weights came about, for the file beside them."""
    return {
        "pocketvit": __version__,
        "data": data.name,
        "pretrained": pretrained.source,
        "epoch": best.epoch,
        "weights": best.weights,
    }
