import dataclasses
import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pocketvit.backbones import create_model, get_entry
from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.core.errors import CheckpointError, InterruptedRun, StorageError, TrainingError
from pocketvit.core.rundir import RunDirectory
from pocketvit.data import open_images
from pocketvit.data.loader import make_loader
from pocketvit.data.splits import MemorySplit
from pocketvit.data.transforms import eval_transform
from pocketvit.tasks import ClassificationTask, evaluate
from pocketvit.tasks.evaluation import torch_predictor
from pocketvit.training import load_recipe, load_weights, train

STEPS = 6  # 54 images in batches of 8; the last, smaller one is left out


def signal_at(model, call, number=signal.SIGTERM):
    """Send this process a signal during the `call`-th forward pass in training mode."""
    calls = []

    def hook(module, _):
        if module.training:
            calls.append(None)
            if len(calls) == call:
                os.kill(os.getpid(), number)

    model.register_forward_pre_hook(hook)
    return model


def equal(a, b):
    return all(torch.equal(value, b[key]) for key, value in a.items()) and a.keys() == b.keys()


def last_tensors(path):
    newest = max((path / "checkpoints").glob("step-*.safetensors"))
    return load_file(newest)


def test_training_leaves_everything_it_promises(tmp_path, train_in, recipe):
    result = train_in(tmp_path)
    run = RunDirectory(tmp_path)
    rows = run.read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert list(rows[0]) == [
        "epoch", "lr", "train_loss", "val_loss", "val_top1", "seconds", "images_per_second",
        "data_wait_share",
    ]  # fmt: skip
    assert all(0 < row["data_wait_share"] < 1 for row in rows)
    record = run.read("training.json")
    assert list(record) == [
        "recipe", "pretrained", "device", "precision", "epochs", "best_epoch", "weights", "seconds",
        "resumed", "images_per_second", "data_wait_share", "skipped_steps", "replaced_samples",
    ]  # fmt: skip
    assert record == json.loads(json.dumps(result.record))
    assert record["recipe"] == recipe.model_dump(mode="json")
    assert (record["device"], record["precision"], record["epochs"], record["resumed"]) == (
        "cpu",
        "float32",
        3,
        0,
    )
    best = max(rows, key=lambda row: (row["val_top1"], -row["val_loss"]))
    assert result.best.epoch == record["best_epoch"] == best["epoch"]
    assert result.best.value == pytest.approx(best["val_top1"], abs=1e-6)
    assert best["val_top1"] > 0.5  # chance is a third
    tensors, card = load_weights(result.weights, architecture="mobilevit_xxs")
    assert equal(tensors, dict(result.model.state_dict()))
    assert card.classes == ("red", "green", "blue")
    assert card.preprocessing.size == 16


def test_the_delivered_weights_score_what_was_recorded(tmp_path, train_in, data, preprocessing):
    result = train_in(tmp_path)
    loader = make_loader(data.val, eval_transform(preprocessing), batch_size=5)
    predict = torch_predictor(result.model, torch.device("cpu"))
    score = evaluate(predict, loader, ClassificationTask(classes=data.classes), split=data.val).score
    assert score.value == result.best.value
    assert score.loss == pytest.approx(result.best.loss, rel=1e-5)


@pytest.mark.parametrize("call", [1, STEPS, STEPS + 3, 2 * STEPS])
def test_interrupted_and_resumed_is_bit_for_bit_the_same(tmp_path, train_in, make_net, call):
    straight = train_in(tmp_path / "straight")
    with pytest.raises(InterruptedRun) as stopped:
        train_in(tmp_path / "stopped", model=signal_at(make_net(), call))
    assert stopped.value.exit_code == 75
    assert "Stopped by SIGTERM" in stopped.value.message
    assert f"pocketvit build --resume {tmp_path / 'stopped'}" in stopped.value.fix
    torch.manual_seed(99)  # another process would start from another state
    torch.rand(17)
    resumed = train_in(tmp_path / "stopped")
    assert equal(dict(straight.model.state_dict()), dict(resumed.model.state_dict()))
    assert equal(last_tensors(tmp_path / "straight"), last_tensors(tmp_path / "stopped"))
    assert (straight.best.epoch, straight.best.value, straight.best.weights) == (
        resumed.best.epoch, resumed.best.value, resumed.best.weights,
    )  # fmt: skip
    assert resumed.record["resumed"] == 1
    measured = ("seconds", "images_per_second", "data_wait_share")
    rows = [RunDirectory(tmp_path / name).read_metrics() for name in ("straight", "stopped")]
    for row in rows[0] + rows[1]:
        for key in measured:
            del row[key]
    assert rows[0] == rows[1]


def test_a_resumed_run_says_what_it_began_with_not_what_can_be_fetched_now(
    tmp_path, train_in, make_net, capsys
):
    hub = PretrainedReport(used=True, source="hub/x", licence="not open source", message="Loaded hub/x.")
    with pytest.raises(InterruptedRun):
        train_in(tmp_path, model=signal_at(make_net(), 2), pretrained=hub)
    record = train_in(tmp_path).record["pretrained"]  # the hub is out of reach now
    assert (record["used"], record["source"], record["licence"]) == (True, "hub/x", "not open source")
    assert "this training began otherwise: Loaded hub/x." in capsys.readouterr().err
    _, card = load_weights(tmp_path / "checkpoints" / "model.safetensors")
    assert card.weights_licence == "not open source"


def test_a_run_may_be_interrupted_again_and_again(tmp_path, train_in, make_net):
    straight = train_in(tmp_path / "straight")
    for _ in range(3 * STEPS - 1):
        with pytest.raises(InterruptedRun):
            train_in(tmp_path / "stopped", model=signal_at(make_net(), 1, signal.SIGINT))
    resumed = train_in(tmp_path / "stopped")
    assert equal(last_tensors(tmp_path / "straight"), last_tensors(tmp_path / "stopped"))
    assert resumed.record["resumed"] == 3 * STEPS - 1
    assert equal(dict(straight.model.state_dict()), dict(resumed.model.state_dict()))


def test_a_signal_during_validation_costs_no_training(tmp_path, train_in, make_net):
    net = make_net()
    sent = []

    def hook(module, _):
        if not module.training and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    net.register_forward_pre_hook(hook)
    with pytest.raises(InterruptedRun, match=f"Epoch 1 of 3, step {STEPS} of {STEPS}"):
        train_in(tmp_path / "stopped", model=net)
    assert RunDirectory(tmp_path / "stopped").read_metrics() == []
    train_in(tmp_path / "stopped")
    train_in(tmp_path / "straight")
    assert equal(last_tensors(tmp_path / "straight"), last_tensors(tmp_path / "stopped"))


def test_the_resume_command_is_the_one_that_was_given(tmp_path, train_in, make_net):
    RunDirectory(tmp_path).begin(command="pocketvit train photos/", config={}, seed=0)
    with pytest.raises(InterruptedRun) as stopped:
        train_in(tmp_path, model=signal_at(make_net(), 2))
    assert f"pocketvit train --resume {tmp_path}" in stopped.value.fix


def test_rows_of_epochs_that_are_done_again_are_not_doubled(tmp_path, train_in):
    train_in(tmp_path)
    newest = max((tmp_path / "checkpoints").glob("step-*.safetensors"))
    newest.write_bytes(b"damaged")
    train_in(tmp_path)
    assert [row["epoch"] for row in RunDirectory(tmp_path).read_metrics()] == [1, 2, 3]


def test_without_resume_it_starts_again(tmp_path, train_in, recipe):
    train_in(tmp_path, recipe=recipe.model_copy(update={"epochs": 1}))
    again = train_in(tmp_path, resume=False)
    assert again.record["resumed"] == 0
    assert [row["epoch"] for row in RunDirectory(tmp_path).read_metrics()] == [1, 2, 3]


def test_a_finished_run_is_delivered_again_without_training(tmp_path, train_in, make_net):
    first = train_in(tmp_path)
    second = train_in(tmp_path, model=signal_at(make_net(), 1))
    assert equal(dict(first.model.state_dict()), dict(second.model.state_dict()))


def test_other_settings_or_data_are_not_mixed_in(tmp_path, train_in, recipe, data):
    train_in(tmp_path)
    with pytest.raises(CheckpointError, match=r"lr: 0\.01 before, 0\.5 now"):
        train_in(tmp_path, recipe=recipe.model_copy(update={"lr": 0.5}))
    with pytest.raises(CheckpointError, match=r"data: f+ before, 0+ now"):
        train_in(tmp_path, data=dataclasses.replace(data, fingerprint="0" * 64))


def test_the_number_of_workers_changes_nothing(tmp_path, train_in, recipe):
    a = train_in(tmp_path / "a", recipe=recipe.model_copy(update={"epochs": 2}))
    b = train_in(tmp_path / "b", recipe=recipe.model_copy(update={"epochs": 2, "workers": 1}))
    assert equal(dict(a.model.state_dict()), dict(b.model.state_dict()))


class Overflowing(nn.Module):
    """Makes the outputs infinite in the training calls numbered in `at`."""

    def __init__(self, net, at):
        super().__init__()
        self.net = net
        self.at = set(at)
        self.calls = 0

    def forward(self, x):
        if self.training:
            self.calls += 1
            if self.calls in self.at:
                x = x * torch.inf
        return self.net(x)


def test_a_step_with_an_infinite_loss_is_skipped_and_counted(tmp_path, train_in, make_net):
    result = train_in(tmp_path, model=Overflowing(make_net(), {2, 3, 10}))
    assert result.record["skipped_steps"] == 3
    assert all(value.isfinite().all() for value in result.model.state_dict().values())
    assert result.best.value > 0.5


def test_ten_in_a_row_stop_the_run_and_the_last_good_checkpoint_stays(tmp_path, train_in, make_net):
    with pytest.raises(TrainingError) as lost:
        train_in(tmp_path, model=Overflowing(make_net(), range(STEPS + 2, 100)))
    assert "10 times in a row" in lost.value.message
    assert "epoch 3, step 5 of 6, at learning rate 0.00" in lost.value.message
    assert "--set lr=0.0033" in lost.value.fix
    assert lost.value.exit_code == 9
    assert all(value.isfinite().all() for value in last_tensors(tmp_path).values())
    result = train_in(tmp_path, model=Overflowing(make_net(), ()))
    assert result.record["resumed"] == 1


def test_an_epoch_without_one_good_step_stops_the_run(tmp_path, train_in, make_net):
    with pytest.raises(TrainingError, match="6 times in a row, the last time in epoch 1"):
        train_in(tmp_path, model=Overflowing(make_net(), range(1, STEPS + 1)))


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, train_in, monkeypatch):
    straight = train_in(tmp_path / "straight")
    write = Path.write_bytes

    def full(self, content):
        if f"step-{2 * STEPS:08d}.safetensors" in self.name:
            write(self, content[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        train_in(tmp_path / "full")
    monkeypatch.undo()
    resumed = train_in(tmp_path / "full")
    assert equal(dict(straight.model.state_dict()), dict(resumed.model.state_dict()))
    assert [row["epoch"] for row in RunDirectory(tmp_path / "full").read_metrics()] == [1, 2, 3]


def test_the_better_of_average_and_raw_weights_is_delivered(tmp_path, train_in, recipe):
    slow = train_in(tmp_path / "a", recipe=recipe.model_copy(update={"ema_decay": 0.0}))
    assert slow.record["weights"] == "raw"
    both = train_in(tmp_path / "b")
    assert both.best.weights in ("ema", "raw")
    tensors = last_tensors(tmp_path / "b")
    kept = {key.removeprefix("best."): value for key, value in tensors.items() if key.startswith("best.")}
    assert equal(kept, dict(both.model.state_dict()))


def test_an_image_that_vanishes_is_replaced_and_listed_after_a_resume_too(tmp_path, train_in, make_net, data):
    damaged = MemorySplit(
        [data.train.key(i) for i in range(54)],
        [b"" if i == 20 else data.train.content(i) for i in range(54)],
        data.train.labels,
    )
    data = dataclasses.replace(data, train=damaged)
    with pytest.raises(InterruptedRun):
        train_in(tmp_path, data=data, model=signal_at(make_net(), 2 * STEPS))
    result = train_in(tmp_path, data=data)
    assert [problem["key"] for problem in result.record["replaced_samples"]] == ["0-20"]
    assert result.record["replaced_samples"][0]["problem"]


def test_bfloat16_trains_on_the_cpu(tmp_path, train_in, recipe):
    result = train_in(tmp_path, recipe=recipe.model_copy(update={"precision": "bfloat16"}))
    assert result.record["precision"] == "bfloat16"
    assert {v.dtype for v in result.model.state_dict().values() if v.is_floating_point()} == {torch.float32}
    assert result.best.value > 0.5


def test_handlers_are_restored_whatever_happens(tmp_path, train_in, make_net):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(InterruptedRun):
        train_in(tmp_path / "a", model=signal_at(make_net(), 1))
    with pytest.raises(TrainingError):
        train_in(tmp_path / "b", model=Overflowing(make_net(), range(100)))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_two_epochs_on_real_digits_beat_chance(tmp_path):
    torch.manual_seed(0)
    data = open_images("digits", limit=900)
    model = create_model("mobilevit_xxs", num_classes=10)
    result = train(
        model,
        data,
        get_entry("mobilevit_xxs").preprocessing.at(32),
        load_recipe("digits", {"epochs": 2, "batch_size": 32, "warmup_epochs": 0.5, "workers": 0}),
        RunDirectory(tmp_path),
        task=ClassificationTask(classes=data.classes),
        device=torch.device("cpu"),
        model_name="mobilevit_xxs",
        pretrained=PretrainedReport(used=False, source="", licence="", message="Random."),
    )
    assert result.best.value > 0.3  # chance is 0.1
    rows = RunDirectory(tmp_path).read_metrics()
    assert rows[1]["train_loss"] < rows[0]["train_loss"]
