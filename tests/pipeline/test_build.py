import os
import shutil
import signal
import time

import pytest
from plain_network import NAME
from safetensors.torch import load_file, save_file

from pocketvit.backbones import create_model
from pocketvit.cli.main import main
from pocketvit.core.errors import DataError, RunError, VerificationError
from pocketvit.core.files import sha256_of
from pocketvit.core.rundir import RunDirectory
from pocketvit.pipeline import stages
from pocketvit.pipeline.build import build, command_line, export_run, train_only


def test_everything_is_there_and_agrees(finished_run):
    model, training = finished_run.read("model.json"), finished_run.read("training.json")
    evaluation, export = finished_run.read("evaluation.json"), finished_run.read("export.json")
    assert model["name"] == "mobilevit_xxs"
    assert model["preprocessing"]["crop"] == 1.0, "enlarged images are not cropped"
    assert training["epochs"] == 1
    assert evaluation["n"] == finished_run.read("data.json")["n_val"]
    assert export["verification"]["passed"]
    assert export["sha256"] == sha256_of(finished_run.onnx)
    assert export["verification"]["n"] <= evaluation["n"]
    rows = finished_run.read("benchmark.json")["rows"]
    assert {(row["role"], row["threads"]) for row in rows} == {("ours", 1), ("baseline", 1)}
    assert {row["resolution"] for row in rows} == {32}
    ours = next(row for row in rows if row["role"] == "ours")
    assert (ours["macs"], ours["params"]) == (model["macs"], model["params"])
    assert "mobilevit_xxs" in finished_run.report.read_text()
    stages_done = finished_run.read("run.json")["stages"]
    assert list(stages_done) == ["model", "train", "evaluate", "export", "benchmark"]
    assert all("wrote" in record for record in stages_done.values())


def test_a_second_build_reuses_every_stage(finished_run, small_job, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a finished stage ran again")

    for work in ("choose_under_budget", "train", "evaluate", "deploy", "benchmark_files"):
        monkeypatch.setattr(stages, work, fail)
    before = finished_run.onnx.stat().st_mtime_ns
    build(small_job(finished_run.path))
    assert finished_run.onnx.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["/usr/bin/pocketvit", "build", "my photos"], "pocketvit build 'my photos'"),
        (["train.py", "--quick"], "python train.py --quick"),
    ],
)
def test_the_command_is_what_was_typed(monkeypatch, typed, told):
    monkeypatch.setattr("sys.argv", typed)
    assert command_line() == told


def test_other_settings_are_refused_and_named(finished_run, small_job):
    with pytest.raises(RunError, match="seed: 0 before, 1 now"):
        build(small_job(finished_run.path, seed=1))


def test_a_run_from_before_a_setting_existed_goes_on(finished_run, small_job, tmp_path):
    copy = RunDirectory(tmp_path / "copy")
    shutil.copytree(finished_run.path, copy.path)
    overview = copy.read("run.json")
    del overview["config"]["options"]
    copy.write("run.json", overview)
    stages.refuse_other_settings(copy, small_job(copy.path))
    other = small_job(copy.path, options={"output_stride": 16})
    with pytest.raises(RunError, match=r"options: {} before, {'output_stride': 16} now"):
        stages.refuse_other_settings(copy, other)


def test_settings_that_do_not_concern_training_may_change(finished_run, small_job):
    stages.refuse_other_settings(finished_run, small_job(finished_run.path, threads=(2,), tolerance=0.1))
    more_workers = {"epochs": 1, "warmup_epochs": 0, "batch_size": 32, "workers": 2}
    stages.refuse_other_settings(finished_run, small_job(finished_run.path, settings=more_workers))


def test_data_that_changed_is_noticed(photos, tmp_path, small_job):
    config = small_job(tmp_path / "run", data=str(photos), limit=None)
    train_only(config)
    (photos / "red" / "00.png").unlink()
    with pytest.raises(RunError, match="other data"):
        train_only(config)
    assert train_only(config, overwrite=True).read("data.json")["n_train"] < 36


def test_pretrained_file_is_used_and_its_classifier_left_out(photos, tmp_path, small_job):
    donor = create_model("mobilevit_xxs", num_classes=7)
    save_file(donor.state_dict(), tmp_path / "donor.safetensors")
    config = small_job(
        tmp_path / "run", data=str(photos), limit=None, pretrained=str(tmp_path / "donor.safetensors")
    )
    report = train_only(config).read("training.json")["pretrained"]
    assert report["used"]
    assert report["source"].endswith("donor.safetensors")
    assert report["matched"] == len(donor.state_dict()) - 2


def test_an_export_beyond_the_tolerance_is_not_announced(photos, tmp_path, small_job):
    run = train_only(small_job(tmp_path / "run", data=str(photos), limit=None, model=NAME))
    with pytest.raises(VerificationError):
        export_run(run.path, target="onnx", precision="float32", tolerance=1e-12, copy_to=None)
    assert not run.onnx.exists()
    assert not run.has("export.json")
    export_run(
        run.path, target="onnx", precision="float32", tolerance=None, copy_to=tmp_path / "out" / "m.onnx"
    )
    assert sha256_of(tmp_path / "out" / "m.onnx") == run.read("export.json")["sha256"]


def test_an_untrained_run_cannot_be_exported(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        export_run(tmp_path, target="onnx", precision="float32", tolerance=None, copy_to=None)


def test_unusable_data_leaves_no_trace_of_training(tmp_path, small_job):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        build(small_job(tmp_path / "run", data=str(tmp_path / "empty")))
    assert not (tmp_path / "run" / "checkpoints").exists()


LONGER = [
    "train", "digits", "--limit", "160", "--model", NAME, "-r", "32", "--pretrained", "none",
    "--epochs", "10", "--batch-size", "32", "--workers", "0", "--out",
]  # fmt: skip


def _wait_for_an_epoch(child, metrics):
    while not (metrics.exists() and metrics.stat().st_size):
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, "it ended before its first epoch did"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The weights that training ends with when nothing comes between."""
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert main([*LONGER, str(out)]) == 0
    return load_file(out / "checkpoints" / "model.safetensors")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_training_and_run_again_gives_the_same_network(tmp_path, how, uninterrupted, fork):
    def train():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins without
        return main([*LONGER, str(tmp_path / "cut")])

    child, wait = fork(train)
    _wait_for_an_epoch(child, tmp_path / "cut" / "metrics.jsonl")
    os.kill(child, how)
    status, errors = wait()
    assert status == (75 if how == signal.SIGINT else -signal.SIGKILL), errors
    if how == signal.SIGINT:
        assert "--resume" in errors
    assert main([*LONGER, str(tmp_path / "cut")]) == 0
    found = load_file(tmp_path / "cut" / "checkpoints" / "model.safetensors")
    assert uninterrupted.keys() == found.keys()
    assert all(uninterrupted[name].equal(found[name]) for name in uninterrupted)
