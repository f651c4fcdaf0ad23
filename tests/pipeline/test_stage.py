from pocketvit.core.rundir import RunDirectory
from pocketvit.pipeline.stage import key_of, run_stage


def test_a_stage_runs_once_per_inputs(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin(command="", config={}, seed=0)
    calls = []

    def work():
        calls.append(1)
        run.write("model.json", {})

    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
        run_stage(run, "model", work, key=key_of(inputs), writes=["model.json"])
    assert len(calls) == 2


def test_a_stage_that_failed_runs_again(tmp_path):
    run = RunDirectory(tmp_path)
    run.begin(command="", config={}, seed=0)
    outcomes = iter([RuntimeError("cut short"), None])

    def work():
        if error := next(outcomes):
            raise error

    try:
        run_stage(run, "train", work, key="k", writes=[])
    except RuntimeError:
        assert "wrote" not in run.stage("train")
    run_stage(run, "train", work, key="k", writes=[])
    assert "wrote" in run.stage("train")


def test_keys_do_not_depend_on_order():
    assert key_of({"a": 1, "b": [1, 2]}) == key_of({"b": [1, 2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})
