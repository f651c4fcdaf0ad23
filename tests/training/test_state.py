import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.nn import functional as F

from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.errors import CheckpointError
from pocketvit.training.checkpoints import load_checkpoint, save_checkpoint
from pocketvit.training.optimizer import make_optimizer
from pocketvit.training.precision import MixedPrecision
from pocketvit.training.recipe import Recipe
from pocketvit.training.state import Best, Progress, TrainingState
from pocketvit.training.step import train_step

CPU = torch.device("cpu")


def make_state(*, layout=torch.contiguous_format, identity=None, ema=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    net.to(memory_format=layout)
    return TrainingState(
        model=net,
        model_name="net_a",
        ema=ModelEmaV3(net, decay=0.9, use_warmup=True) if ema else None,
        optimizer=make_optimizer(net, Recipe()),
        scaler=MixedPrecision(name="float32", device=CPU).scaler,
        replaced=[],
        pretrained=PretrainedReport(used=False, source="", licence="", message="Random."),
        identity=identity or {"recipe": {"lr": 0.1, "augmentation": {"flip": True}}, "data": "abc"},
    )


def advance(state, steps):
    for _ in range(steps):
        generator = torch.Generator().manual_seed(state.progress.step)
        images = torch.randn(4, 3, 8, 8, generator=generator)
        precision = MixedPrecision(name="float32", device=CPU)
        targets = torch.tensor([0, 1, 0, 1])
        loss = train_step(state.model, state.optimizer, F.cross_entropy, images, targets, precision=precision)
        if state.ema is not None:
            state.ema.update(state.model, step=state.progress.step + 1)
        state.progress.count(loss, lr=0.1, seconds=1.0, wait=0.25)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ema", [True, False])
def test_a_restored_state_goes_on_as_if_nothing_had_happened(tmp_path, layout, ema):
    straight, first, second = (make_state(layout=layout, ema=ema) for _ in range(3))
    advance(straight, 9)
    advance(first, 4)
    first.keep_better(Best(1, 0.5, 1.0, "raw", first.model.state_dict()))
    first.save(tmp_path)
    second.restore(load_checkpoint(tmp_path, architecture="net_a"))
    assert second.progress == first.progress
    assert second.best is not None
    assert second.best.value == 0.5
    advance(second, 5)
    a, b = straight.to_checkpoint().tensors, second.to_checkpoint().tensors
    assert set(a) == {key for key in b if not key.startswith("best.")}
    for key, value in a.items():
        assert torch.equal(value, b[key]), key
    moments = next(iter(second.optimizer.state.values()))["exp_avg"]
    kernel = next(p for p in second.model.parameters() if p.ndim == 4)
    assert second.optimizer.state[kernel]["exp_avg"].stride() == kernel.stride()
    assert moments.dtype == torch.float32


def test_ema_is_the_recurrence_with_warm_up():
    """e_t = d_t e_{t-1} + (1 - d_t) w_t with d_t = min(0.9, 1 - t^(-2/3)), BatchNorm statistics included."""
    state = make_state()
    expected = None
    for t in range(1, 30):
        advance(state, 1)
        weights = {
            k: v.double().clone() for k, v in state.model.state_dict().items() if v.is_floating_point()
        }
        decay = min(0.9, 1 - t ** (-2 / 3))
        expected = (
            weights
            if expected is None
            else {k: decay * expected[k] + (1 - decay) * weights[k] for k in weights}
        )
    for key, value in expected.items():
        torch.testing.assert_close(state.ema.module.state_dict()[key].double(), value, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"recipe": {"lr": 0.2, "augmentation": {"flip": True}}, "data": "abc"}, "lr: 0.1 before, 0.2 now"),
        (
            {"recipe": {"lr": 0.1, "augmentation": {"flip": False}}, "data": "abc"},
            "flip: True before, False now",
        ),
        ({"recipe": {"lr": 0.1, "augmentation": {"flip": True}}, "data": "xyz"}, "data: abc before, xyz now"),
    ],
)
def test_going_on_with_other_settings_is_refused(changed, message):
    with pytest.raises(CheckpointError, match=message):
        make_state(identity=changed).restore(make_state().to_checkpoint())


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    checkpoint = make_state().to_checkpoint()
    del checkpoint.tensors["model.0.weight"]
    save_checkpoint(tmp_path, checkpoint)
    with pytest.raises(CheckpointError, match=r"does not fit net_a(.|\n)*0\.weight"):
        make_state().restore(load_checkpoint(tmp_path, architecture="net_a"))


def test_a_checkpoint_of_another_version_is_refused():
    checkpoint = make_state().to_checkpoint()
    del checkpoint.facts["pretrained"]
    with pytest.raises(CheckpointError, match="another version of pocketvit: it lacks pretrained") as told:
        make_state().restore(checkpoint)
    assert "--overwrite" in told.value.fix


@pytest.mark.parametrize(
    ("value", "loss", "better"),
    [
        (0.9, 1.0, True),
        (0.7, 0.1, False),
        (0.8, 0.4, True),
        (0.8, 0.5, False),
        (0.8, 0.6, False),
        (1.0, float("nan"), False),
    ],
)
def test_the_higher_score_wins_then_the_lower_loss(value, loss, better):
    assert Best(2, value, loss, "raw", {}).beats(Best(1, 0.8, 0.5, "ema", {})) is better


def test_the_best_is_a_copy():
    state = make_state()
    state.keep_better(Best(1, 0.5, 1.0, "raw", state.model.state_dict()))
    before = {k: v.clone() for k, v in state.best.tensors.items()}
    advance(state, 2)
    assert state.best is state.keep_better(Best(2, 0.4, 0.1, "raw", state.model.state_dict()))
    assert all(torch.equal(state.best.tensors[k], v) for k, v in before.items())


def test_progress_counts():
    done = Progress()
    for loss in (2.0, None, None, 4.0, None):
        done.count(loss, lr=0.1, seconds=1.0, wait=0.25)
    assert (done.step, done.epoch_batch, done.epoch_good, done.epoch_loss) == (5, 5, 2, 6.0)
    assert (done.skipped, done.skipped_in_a_row) == (3, 1)
    done.finish_epoch()
    assert (done.epoch, done.step, done.epoch_batch, done.epoch_loss, done.epoch_seconds) == (
        1,
        5,
        0,
        0.0,
        0.0,
    )
    assert (done.train_seconds, done.wait_seconds) == (5.0, 1.25)
