"""AdamW, and a learning rate that warms up and then follows half a cosine."""

from __future__ import annotations

from timm.optim._param_groups import param_groups_weight_decay
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import AdamW, Optimizer

from pocketvit.training.recipe import Recipe

__all__ = ["make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019); biases, norms and other 1-D parameters are not decayed."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    on_gpu = next(model.parameters()).is_cuda
    return AdamW(groups, lr=recipe.lr, fused=True if on_gpu else None)


def make_schedule(optimizer: Optimizer, recipe: Recipe, *, steps_per_epoch: int) -> CosineLRScheduler:
    """The learning rate of step t = 0, 1, …, T - 1; set it with `schedule.step_update(t)`.

    With W warm-up steps, peak η and floor η₀ = min_lr · η:

        t < W:  η (t + 1) / (W + 1)
        t ≥ W:  η₀ + (η - η₀) (1 + cos(π (t - W) / (T - W))) / 2

    The rate depends on t alone, so a resumed run needs no state of it.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(total - warmup, 2),  # of one step the rate is η anyway, and timm would warn
        lr_min=recipe.lr * recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=recipe.lr / (warmup + 1),
        warmup_prefix=True,
        t_in_epochs=False,
    )
