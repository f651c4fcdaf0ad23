import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pocketvit.training.precision import MixedPrecision
from pocketvit.training.step import seed_step, train_step

CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 8, 8, generator=generator), torch.randint(2, (6,), generator=generator)


def step(model, optimizer, images, targets, **options):
    precision = MixedPrecision(name="float32", device=CPU)
    return train_step(model, optimizer, F.cross_entropy, images, targets, precision=precision, **options)


def test_it_is_the_textbook_step():
    ours, plain = net(), net()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, plain)]
    images, targets = batch()
    for _ in range(3):
        loss = step(ours, optimizers[0], images, targets)
        expected = F.cross_entropy(plain(images), targets)
        expected.backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
        assert loss == pytest.approx(expected.item(), rel=1e-6)
    for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_gradient_is_clipped_to_the_norm():
    model, (images, targets) = net(), batch()
    before = [p.detach().clone() for p in model.parameters()]
    step(model, torch.optim.SGD(model.parameters(), lr=1.0), images, targets, clip_grad=1e-3)
    pairs = zip(before, model.parameters(), strict=True)
    moved = math.sqrt(sum((a - b.detach()).square().sum().item() for a, b in pairs))
    assert moved == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("poison", [math.inf, math.nan])
def test_a_non_finite_step_leaves_no_trace(poison):
    model, (images, targets) = net(), batch()
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer, images, targets)
    before = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
    moments = [v["exp_avg"].clone() for v in optimizer.state.values()]
    bad = images.clone()
    bad[0, 0, 0, 0] = poison
    assert step(model, optimizer, bad, targets) is None
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), key
    assert all(torch.equal(a, v["exp_avg"]) for a, v in zip(moments, optimizer.state.values(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert math.isfinite(step(model, optimizer, images, targets))


def test_a_finite_loss_with_an_infinite_gradient_is_skipped_too():
    weight = nn.Parameter(torch.tensor([0.0]))

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return self.weight.abs().sqrt() + x  # the gradient at 0 is infinite, the value is not

    model = Root()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    precision = MixedPrecision(name="float32", device=CPU)
    result = train_step(
        model, optimizer, lambda y, _: y.sum(), torch.ones(1), torch.ones(1), precision=precision
    )
    assert result is None
    assert weight.item() == 0.0


def test_the_random_numbers_of_a_step_depend_on_seed_and_step_alone():
    def draw(seed, step):
        seed_step(seed, step)
        return torch.rand(3).tolist()

    first = draw(0, 5)
    torch.rand(100)
    assert draw(0, 5) == first
    assert len({tuple(draw(seed, step)) for seed in range(5) for step in range(5)}) == 25
