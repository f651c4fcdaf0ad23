import pytest

from pocketvit.core.errors import RunError
from pocketvit.core.rundir import RunDirectory


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin(command="pocketvit build digits", config={"data": "digits"}, seed=3)
    return run


def test_begin_records_how_the_run_was_made(run):
    record = RunDirectory.open(run.path).read("run.json")
    assert record["config"] == {"data": "digits"}
    assert record["seed"] == 3
    assert record["versions"]["torch"]
    assert record["hardware"]["cores"] >= 1


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a run directory"):
        RunDirectory.open(tmp_path)


def test_a_stage_is_done_only_for_the_same_key_and_while_its_files_are_there(run):
    run.start_stage("train", "key")
    assert not run.stage_is_done("train", "key")
    run.write("training.json", {})
    run.finish_stage("train", "key", seconds=1.234, wrote=["training.json"])
    assert run.stage_is_done("train", "key")
    assert not run.stage_is_done("train", "other")
    (run.path / "training.json").unlink()
    assert not run.stage_is_done("train", "key")


def test_beginning_again_keeps_finished_stages_and_the_creation_time(run):
    run.finish_stage("data", "key", seconds=0.0, wrote=[])
    created = run.read("run.json")["created"]
    run.begin(command="again", config={}, seed=3)
    assert run.stage_is_done("data", "key")
    assert run.read("run.json")["created"] == created


def test_metrics_survive_a_half_written_last_line(run):
    run.append_metrics({"epoch": 1})
    run.append_metrics({"epoch": 2})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')
    assert run.read_metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_missing_and_damaged_files_are_run_errors(run):
    with pytest.raises(RunError, match="that stage has not finished"):
        run.read("evaluation.json")
    (run.path / "data.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        run.read("data.json")


def test_a_second_process_is_kept_out(run):
    with run.locked():
        other = RunDirectory(run.path)
        with pytest.raises(RunError, match="Another pocketvit process"), other.locked():
            pass
    with run.locked():
        pass


def test_the_integer_file_is_the_one_that_was_announced(run):
    run.start_stage("quantize", "key")
    run.write("quantization.json", {"file": "model.int6.onnx"})
    (run.path / "model.int6.onnx").write_bytes(b"")
    (run.path / "model.int8.onnx").write_bytes(b"")
    assert run.integer_file is None, "quantization was begun again, and has not finished"
    run.finish_stage("quantize", "key", seconds=1, wrote=["quantization.json"])
    assert run.integer_file == run.path / "model.int6.onnx"
    (run.path / "model.int6.onnx").unlink()
    assert run.integer_file is None
