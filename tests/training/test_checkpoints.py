import errno
import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pocketvit.backbones import BuildOptions, create_model, get_entry
from pocketvit.core.errors import CheckpointError, StorageError
from pocketvit.tasks import ModelCard
from pocketvit.training.checkpoints import (
    Checkpoint,
    clear_checkpoints,
    load_checkpoint,
    load_model,
    load_weights,
    save_checkpoint,
    save_weights,
)


def save(folder, step, value=None, architecture="net_a"):
    tensors = {"w": torch.full((100,), float(step if value is None else value)), "n": torch.tensor(step)}
    save_checkpoint(folder, Checkpoint(step, architecture, tensors, {"epoch": step}))


def load(folder, architecture="net_a"):
    return load_checkpoint(folder, architecture=architecture)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 3)
    found = load(tmp_path)
    assert (found.step, found.architecture, found.facts) == (3, "net_a", {"epoch": 3})
    assert torch.equal(found.tensors["w"], torch.full((100,), 3.0))
    assert found.tensors["n"].dtype == torch.int64


def test_nothing_saved_is_none(tmp_path):
    assert load(tmp_path) is None
    assert load(tmp_path / "missing") is None


def test_the_previous_one_is_kept_and_older_ones_go(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == [f"step-0000000{n}.{kind}" for n in (2, 3) for kind in ("json", "safetensors")]


@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "remove", "cut record", "empty record", "foreign record"]
)
def test_a_damaged_checkpoint_falls_back_to_the_previous_one_and_says_so(tmp_path, capsys, harm):
    save(tmp_path, 1)
    save(tmp_path, 2)
    tensors, record = (tmp_path / f"step-00000002.{kind}" for kind in ("safetensors", "json"))
    if harm == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-7])
    elif harm == "flip":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif harm == "remove":
        tensors.unlink()
    elif harm == "cut record":
        record.write_text(record.read_text()[:20])
    elif harm == "empty record":
        record.write_text("")
    else:
        record.write_text("[]")
    assert load(tmp_path).step == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "step-00000002" in said
    assert "Going on from the one before, step-00000001" in said


def test_when_none_is_whole_it_is_an_error(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000001.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole"):
        load(tmp_path)


def test_tensors_without_their_record_do_not_count(tmp_path):
    """What a process killed between the two writes leaves behind."""
    save(tmp_path, 1)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"half")
    (tmp_path / ".step-00000002.safetensors.abcd.tmp").write_bytes(b"less")
    assert load(tmp_path).step == 1
    save(tmp_path, 3)
    assert names(tmp_path) == [f"step-0000000{n}.{kind}" for n in (1, 3) for kind in ("json", "safetensors")]


def test_saving_after_a_fall_back_drops_the_course_that_was_given_up(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 9)
    (tmp_path / "step-00000009.safetensors").write_bytes(b"")
    assert load(tmp_path).step == 1
    save(tmp_path, 5)
    assert load(tmp_path).step == 5
    assert names(tmp_path)[0].startswith("step-00000001")
    assert not any("9" in name for name in names(tmp_path))


def test_another_architecture_is_named(tmp_path):
    save(tmp_path, 1, architecture="mobilevit_xxs")
    with pytest.raises(CheckpointError, match="mobilevit_xxs, not of swiftformer_xs"):
        load(tmp_path, "swiftformer_xs")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path, monkeypatch, suffix):
    save(tmp_path, 1)
    write = Path.write_bytes

    def full(self, content):
        if f"{suffix}." in self.name:
            write(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="disk is full"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert load(tmp_path).step == 1
    assert not list(tmp_path.glob(".*.tmp"))
    save(tmp_path, 2)
    assert load(tmp_path).step == 2


def test_clearing_leaves_the_deployable_weights(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "model.json").write_text("{}")
    clear_checkpoints(tmp_path)
    assert names(tmp_path) == ["model.json"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_there_is_always_a_whole_checkpoint(tmp_path, fork):
    """Fifty times a writer is killed: no more than the step under way is lost, and nothing loads wrongly."""
    folder, told = tmp_path / "checkpoints", tmp_path / "told"
    folder.mkdir()

    def weights(step):
        return torch.full((300_000,), float(step))

    def write_on():
        found = load(folder)
        step = 0 if found is None else found.step
        while True:
            step += 1
            save_checkpoint(folder, Checkpoint(step, "net_a", {"w": weights(step)}, {}))
            told.write_text(str(step))

    moments, step = random.Random(0), 0
    for _ in range(50):
        child, wait = fork(write_on)
        time.sleep(moments.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        status, errors = wait()
        assert status == -signal.SIGKILL, errors
        last = int(told.read_text() or 0) if told.exists() else 0
        found = load(folder)
        step = 0 if found is None else found.step
        assert last <= step
        assert found is None or torch.equal(found.tensors["w"], weights(step))
    assert step >= 10
    save(folder, step + 1)
    left = names(folder)  # what the killed ones left is gone
    assert len(left) == 4
    assert not [name for name in left if name.endswith(".tmp")]


# ---- deployable weights


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("mobilevit_xxs", num_classes=3)


@pytest.fixture(scope="module")
def card():
    return ModelCard(
        name="mobilevit_xxs",
        classes=("a", "b", "c"),
        preprocessing=get_entry("mobilevit_xxs").preprocessing.at(64),
        code_licence="Apache-2.0",
        weights_licence="none",
        source="a test",
    )


def test_weights_rebuild_the_model_without_the_run(tmp_path, model, card):
    path = tmp_path / "model.safetensors"
    save_weights(path, model.to(memory_format=torch.channels_last), card, training={})
    rebuilt, found = load_model(path)
    assert found == card
    assert not rebuilt.training
    assert set(load_file(path)) == set(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[key], value), key


def test_options_travel_with_the_weights(tmp_path, card):
    """MobileViTv2 has odd maps at 96 px, where its official resize computes something else."""
    options = BuildOptions(official_resize=True)
    torch.manual_seed(0)
    built = create_model("mobilevitv2_050", num_classes=3, **options.to_dict()).eval()
    path = tmp_path / "model.safetensors"
    save_weights(path, built, replace(card, name="mobilevitv2_050", options=options), training={})
    rebuilt, found = load_model(path)
    images = torch.rand(1, 3, 96, 96)
    default = create_model("mobilevitv2_050", num_classes=3).eval()
    default.load_state_dict(built.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(images), built(images))
        assert not torch.allclose(rebuilt(images), default(images), rtol=1e-3)
    assert found.options == options


def test_weights_of_another_architecture_are_refused(tmp_path, model, card):
    path = tmp_path / "model.safetensors"
    save_weights(path, model, card, training={"epoch": 3})
    with pytest.raises(CheckpointError, match="mobilevit_xxs, not of cas_vit_xs"):
        load_weights(path, architecture="cas_vit_xs")
    record = path.with_suffix(".json")
    facts = json.loads(record.read_text())
    facts["card"]["model"] = "mobilevit_xs"
    record.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="does not fit mobilevit_xs"):
        load_model(path)


def test_weights_need_their_card_and_must_be_whole(tmp_path, model, card):
    path = tmp_path / "model.safetensors"
    save_weights(path, model, card, training={"epoch": 3})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or was altered"):
        load_model(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="copy both files"):
        load_model(path)


def test_a_card_of_a_later_format_is_refused(tmp_path, model, card):
    path = tmp_path / "model.safetensors"
    save_weights(path, model, card, training={"epoch": 3})
    record = path.with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_weights(path)
