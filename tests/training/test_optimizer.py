import math

import pytest
import torch
from torch import nn

from pocketvit.backbones import create_model
from pocketvit.training.optimizer import make_optimizer, make_schedule
from pocketvit.training.recipe import Recipe


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "swiftformer_xs", "cas_vit_xs"])
def test_only_matrices_and_kernels_are_decayed(name):
    model = create_model(name, num_classes=4)
    optimizer = make_optimizer(model, Recipe(weight_decay=0.05))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for key, parameter in model.named_parameters():
        plain = parameter.ndim <= 1 or key.endswith(".bias")
        assert decay[id(parameter)] == (0.0 if plain else 0.05), key


@pytest.mark.parametrize(
    ("epochs", "steps", "warmup", "floor"), [(10, 7, 2, 0.01), (3, 1, 0, 0.0), (4, 5, 0.5, 0.1)]
)
def test_learning_rate_is_the_closed_form(epochs, steps, warmup, floor):
    recipe = Recipe(epochs=epochs, lr=0.02, warmup_epochs=warmup, min_lr=floor)
    optimizer = make_optimizer(nn.Linear(3, 3), recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=steps)
    total, w = epochs * steps, round(warmup * steps)
    for t in range(total):
        schedule.step_update(t)
        low = 0.02 * floor
        cosine = low + (0.02 - low) * (1 + math.cos(math.pi * (t - w) / (total - w))) / 2
        expected = 0.02 * (t + 1) / (w + 1) if t < w else cosine
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([expected] * 2, rel=1e-9)


def test_learning_rate_does_not_depend_on_the_steps_before():
    recipe = Recipe(epochs=5, warmup_epochs=1)
    a, b = (make_optimizer(nn.Linear(3, 3), recipe) for _ in range(2))
    through, jump = (make_schedule(o, recipe, steps_per_epoch=10) for o in (a, b))
    for t in range(31):
        through.step_update(t)
    jump.step_update(30)
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]


def test_a_warm_up_longer_than_the_run_still_reaches_the_top(caplog):
    recipe = Recipe(epochs=2, lr=0.1, warmup_epochs=50)
    optimizer = make_optimizer(nn.Linear(3, 3), recipe)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch=4)
    rates = []
    for t in range(8):
        schedule.step_update(t)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.1)
    assert not caplog.records  # timm warns of a cosine of one step


def test_one_step_is_adamw():
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    weight, bias = net.weight.detach().double().clone(), net.bias.detach().double().clone()
    recipe = Recipe(lr=0.1, weight_decay=0.5)
    optimizer = make_optimizer(net, recipe)
    net(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    # First step of AdamW: the bias-corrected moments are g and g², so the update is sign(g).
    torch.testing.assert_close(
        net.weight.detach().double(), weight * (1 - 0.1 * 0.5) - 0.1, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(net.bias.detach().double(), bias - 0.1, atol=1e-6, rtol=0)
