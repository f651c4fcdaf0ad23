import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.errors import TrainingError
from pocketvit.tasks import ClassificationTask
from pocketvit.training.optimizer import make_optimizer
from pocketvit.training.precision import MixedPrecision
from pocketvit.training.recipe import Recipe
from pocketvit.training.state import TrainingState
from pocketvit.training.validation import validate

CPU = torch.device("cpu")


class Bias(nn.Module):
    """The same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def state_of(raw, ema):
    model = Bias(raw)
    average = ModelEmaV3(model, decay=0.9)
    average.module.load_state_dict(Bias(ema).state_dict())
    scaler = MixedPrecision(name="float32", device=CPU).scaler
    return TrainingState(
        model=model,
        model_name="net_a",
        ema=average,
        optimizer=make_optimizer(model, Recipe()),
        scaler=scaler,
        replaced=[],
        pretrained=PretrainedReport(used=False, source="", licence="", message="Random."),
        identity={},
    )


def check(raw, ema):
    batches = [(torch.zeros(2, 3, 4, 4), torch.tensor([0, 0]), torch.tensor([0, 1]))] * 2
    task = ClassificationTask(classes=("a", "b"))
    return validate(state_of(raw, ema), batches, task, CPU, torch.contiguous_format)


@pytest.mark.parametrize(
    ("raw", "ema", "kind", "value"),
    [
        ([1.0, 0.0], [0.0, 1.0], "raw", 1.0),
        ([0.0, 1.0], [1.0, 0.0], "ema", 1.0),
        ([1.0, 0.0], [3.0, 0.0], "ema", 1.0),  # equally right, but surer: the lower loss
        ([3.0, 0.0], [1.0, 0.0], "raw", 1.0),
        ([0.0, 1.0], [0.0, 2.0], "raw", 0.0),
    ],
)
def test_the_better_weights_are_chosen(raw, ema, kind, value):
    best = check(raw, ema)
    assert (best.weights, best.value, best.epoch) == (kind, value, 1)
    assert torch.equal(best.tensors["logits"], torch.tensor(raw if kind == "raw" else ema))


def test_outputs_that_are_not_numbers_stop_the_run():
    with pytest.raises(TrainingError, match=r"After epoch 1 .* not numbers"):
        check([torch.nan, 0.0], [torch.nan, 0.0])


def test_average_that_is_fine_saves_the_epoch():
    assert check([torch.nan, 0.0], [1.0, 0.0]).weights == "ema"
