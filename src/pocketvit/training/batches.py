"""The batches that training and its validation go through."""

from __future__ import annotations

import torch

from pocketvit.backbones import Preprocessing
from pocketvit.core.machine import usable_cores
from pocketvit.data import ImageData
from pocketvit.data.loader import ImageLoader, TrainSampler, make_loader
from pocketvit.data.transforms import eval_transform, train_transform
from pocketvit.training.recipe import Recipe

__all__ = ["make_batches"]


def make_batches(
    data: ImageData, preprocessing: Preprocessing, recipe: Recipe, device: torch.device
) -> tuple[ImageLoader, ImageLoader]:
    """Batches of the training images, varied, and of the validation images."""
    workers = _auto_workers(device) if recipe.workers == "auto" else recipe.workers
    on_gpu = device.type == "cuda"
    training = make_loader(
        data.train,
        train_transform(preprocessing, recipe.augmentation),
        batch_size=recipe.batch_size,
        sampler=TrainSampler(len(data.train), seed=recipe.seed),
        workers=workers,
        pin_memory=on_gpu,
    )
    validation = make_loader(
        data.val,
        eval_transform(preprocessing),
        batch_size=recipe.batch_size,
        workers=workers,
        pin_memory=on_gpu,
    )
    return training, validation


def _auto_workers(device: torch.device) -> int:
    return 0 if device.type == "cpu" else min(usable_cores(), 8)
