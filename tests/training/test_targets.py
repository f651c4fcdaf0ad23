import pytest
import torch
from torch.nn import functional as F

from pocketvit.training.targets import SoftTargets

LABELS = torch.tensor([0, 1, 2, 3])


def images():
    """Image i is filled with the value i."""
    return torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 16, 16).clone()


def soft(**changes):
    return SoftTargets(**{"num_classes": 4, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0} | changes)


def test_without_mixing_images_stay_and_targets_are_one_hot():
    x, y = soft()(images(), LABELS)
    assert torch.equal(x, images())
    assert torch.equal(y, torch.eye(4))


def test_label_smoothing_gives_the_loss_torch_gives():
    logits = torch.randn(4, 4)
    _, y = soft(label_smoothing=0.1)(images(), LABELS)
    torch.testing.assert_close(
        F.cross_entropy(logits, y), F.cross_entropy(logits, LABELS, label_smoothing=0.1)
    )


def test_mixup_mixes_targets_as_it_mixes_images():
    torch.manual_seed(0)
    for _ in range(20):
        x, y = soft(mixup=0.5)(images(), LABELS)
        assert x.flatten(1).std(1).max() < 1e-5  # still flat: each pixel was mixed alike
        torch.testing.assert_close(y.sum(1), torch.ones(4))
        torch.testing.assert_close(x[:, 0, 0, 0], y @ torch.arange(4.0))  # E[class] = mean pixel


def test_cutmix_weighs_targets_by_area():
    torch.manual_seed(0)
    for _ in range(20):
        x, y = soft(cutmix=1.0)(images(), LABELS)
        assert set(x.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}  # pasted, not blended
        torch.testing.assert_close(x.mean((1, 2, 3)), y @ torch.arange(4.0))


def test_with_both_each_batch_draws_one():
    torch.manual_seed(0)
    both = soft(mixup=1.0, cutmix=1.0)
    flat = [both(images(), LABELS)[0].flatten(1).std(1).max().item() < 1e-5 for _ in range(40)]
    assert 5 < sum(flat) < 35


def test_mixing_follows_the_seed():
    def draw():
        torch.manual_seed(3)
        return soft(mixup=1.0, cutmix=1.0)(images(), LABELS)

    for a, b in zip(draw(), draw(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_targets_always_sum_to_one(smoothing):
    _, y = soft(mixup=1.0, label_smoothing=smoothing)(images(), LABELS)
    torch.testing.assert_close(y.sum(1), torch.ones(4))
