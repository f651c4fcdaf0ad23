import pytest
import torch

from pocketvit.training import batches as module
from pocketvit.training.batches import make_batches

CPU = torch.device("cpu")


def test_training_is_varied_and_shuffled_validation_is_neither(data, preprocessing, recipe):
    training, validation = make_batches(data, preprocessing, recipe, CPU)
    assert len(training) == 54 // 8
    shuffled = torch.cat([indices for _, _, indices in training])
    assert shuffled.tolist() != sorted(shuffled.tolist())
    training.set_epoch(1)
    assert not torch.equal(shuffled, torch.cat([indices for _, _, indices in training]))
    in_order = torch.cat([indices for _, _, indices in validation])
    assert in_order.tolist() == list(range(21))
    for (a, _, _), (b, _, _) in zip(validation, validation, strict=True):
        assert torch.equal(a, b)


def test_the_seed_of_the_recipe_decides(data, preprocessing, recipe):
    def first(seed):
        training, _ = make_batches(data, preprocessing, recipe.model_copy(update={"seed": seed}), CPU)
        return next(iter(training))

    for a, b in zip(first(1), first(1), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first(1)[2], first(2)[2])


@pytest.mark.parametrize(
    ("asked", "device", "cores", "workers"),
    [("auto", "cpu", 16, 0), ("auto", "cuda", 4, 4), ("auto", "cuda", 64, 8), (3, "cpu", 2, 3)],
)
def test_the_number_of_workers(monkeypatch, data, preprocessing, recipe, asked, device, cores, workers):
    given = []
    monkeypatch.setattr(module, "usable_cores", lambda: cores)
    monkeypatch.setattr(module, "make_loader", lambda *_, **options: given.append(options["workers"]))
    make_batches(data, preprocessing, recipe.model_copy(update={"workers": asked}), torch.device(device))
    assert given == [workers, workers]
