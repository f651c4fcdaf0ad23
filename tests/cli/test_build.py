"""The errors a person meets first: each one clear message and its exit code."""

import errno
import os
import resource
import signal

import pytest
from safetensors.torch import save_file

from pocketvit.backbones import create_model
from pocketvit.cli.main import main

TINY = ["--model", "mobilevit_xxs", "-r", "32", "--pretrained", "none", "--epochs", "1", "--workers", "0"]


@pytest.fixture
def build(cli, tmp_path):
    def call(data, *options):
        return cli("build", data, "--out", tmp_path / "run", *options)

    return call


def test_no_images(build, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = build(tmp_path / "empty")
    assert code == 4
    assert "no images" in err.lower()


def test_one_class(build, photos):
    for name in ("green", "blue"):
        for path in (photos / name).iterdir():
            path.unlink()
        (photos / name).rmdir()
    code, _, err = build(photos)
    assert code == 4
    assert "class" in err


def test_unknown_model_gets_a_suggestion(build):
    code, _, err = build("digits", "--model", "mobilvit_xxs")
    assert code == 2
    assert "Did you mean mobilevit_xxs" in err


def test_a_budget_nothing_fits(build):
    code, _, err = build("digits", "--macs", "1M")
    assert code == 3
    assert "No model tried fits 1 M MACs" in err


def test_a_path_that_is_not_there_gets_a_suggestion(build, photos):
    code, _, err = build(photos.with_name("fotos"))
    assert code == 4
    assert "Did you mean" in err
    assert "photos" in err


def test_an_unreadable_path(build, photos, monkeypatch):
    """As for a user without permission; these tests may run as root, who may read everything."""
    scan = os.scandir

    def refuse(path="."):
        if str(path).startswith(str(photos)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    code, _, err = build(photos)
    assert code == 4
    assert "Permission denied" in err


def test_damaged_images_beyond_the_threshold(build, photos):
    for i in range(4):
        (photos / "red" / f"{i:02}.png").write_bytes(b"not an image")
    code, _, err = build(photos)
    assert code == 4
    assert "4 of 36 images" in err
    assert "--max-damaged" in err


def test_damaged_images_below_it_are_listed_and_skipped(build, photos, tmp_path):
    (photos / "red" / "00.png").write_bytes(b"not an image")
    code, _, err = build(photos, "--model", "no_such_model")
    assert code == 2, "the data was read first"
    assert "1 left out" in err
    assert "red/00.png" in err


def test_weights_of_another_architecture(build, photos, tmp_path):
    save_file(create_model("swiftformer_xs", num_classes=3).state_dict(), tmp_path / "swift.safetensors")
    options = [word if word != "none" else tmp_path / "swift.safetensors" for word in TINY]
    code, _, err = build(photos, *options)
    assert code == 5
    assert "of another architecture" in err


def test_a_setting_that_does_not_exist(build, photos):
    code, _, err = build(photos, *TINY, "--set", "weight_deca=1")
    assert code == 2
    assert "Did you mean weight_decay" in err


@pytest.mark.parametrize("words", [[], ["digits", "--resume", "runs/x"], ["digits", "--macs", "many"]])
def test_contradictory_arguments(cli, words):
    code, _, err = cli("build", *words)
    assert code == 2
    assert "Traceback" not in err


def test_a_full_disk_keeps_what_was_there(cli, photos, tmp_path, fork):
    """A limit on the size of files stands for the disk: the checkpoint is the first file above it."""

    words = ["train", str(photos), "--out", str(tmp_path / "run"), *TINY]

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return main(words)

    _, wait = fork(work)
    status, errors = wait()
    assert status == 8, errors
    assert "StorageError" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert cli(*words)[0] == 0
