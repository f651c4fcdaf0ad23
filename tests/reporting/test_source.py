import pytest

from pocketvit.core.errors import RunError
from pocketvit.reporting.source import read_run


def test_reads_every_file(make_run, make_results):
    files = read_run(make_run(make_results()))
    assert files.missing == []
    assert files.evaluation["n"] == 400
    assert len(files.metrics) == 12


def test_names_what_has_not_run(make_run, make_results):
    content = make_results() | {"export.json": None, "benchmark.json": None}
    assert read_run(make_run(content)).missing == ["export", "benchmark"]


def test_the_result_of_a_stage_begun_again_is_old(make_run, make_results):
    content = make_results()
    content["run.json"]["stages"]["train"] = {"key": "new", "started": "2026-01-02T11:00:00+00:00"}
    assert read_run(make_run(content)).missing == ["training"]


def test_a_damaged_file_is_named(make_run, make_results):
    run = make_run(make_results())
    (run.path / "export.json").write_text("{")
    with pytest.raises(RunError, match=r"export\.json is damaged"):
        read_run(run)


def test_no_run(tmp_path):
    from pocketvit.core.rundir import RunDirectory

    with pytest.raises(RunError, match=r"run\.json"):
        read_run(RunDirectory(tmp_path))
