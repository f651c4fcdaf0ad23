import copy

import pytest

from pocketvit.reporting.notices import clean_record, notices
from pocketvit.reporting.source import read_run
from pocketvit.reporting.speed import comparisons


@pytest.fixture
def found(make_run):
    """The notices of a run, by title."""

    def read(content):
        return {notice.title: notice for notice in notices(read_run(make_run(content)))}

    return read


def changed(content, name, **values):
    content = copy.deepcopy(content)
    content[name].update(values)
    return content


def test_each_finding_is_told(found, make_results):
    content = make_results()
    content["data.json"]["problems"] = [{"key": "rose/1.jpg", "problem": "truncated"}]
    content["data.json"]["counts"]["train"][3] = 4
    content["data.json"]["counts"]["val"][3] = 2
    content["data.json"]["typical_size"] = 8
    content["training.json"].update(
        skipped_steps=3,
        replaced_samples=[{"key": "a.jpg", "problem": "gone"}],
        resumed=2,
        data_wait_share=0.55,
        best_epoch=12,
    )
    content["benchmark.json"]["rows"][0]["p90_ms"] = 9.0
    expected = {
        "Few images to measure on": "5.2 points apart",
        "1 image left out": "1 of 2,000",
        "The classes are not balanced": "“iris” has 4",
        "1 class with fewer than 10 validation images": "anecdotes",
        "Images are enlarged": "8 pixels",
        "Trained from scratch": "The hub could not be reached. No pretrained weights",
        "3 training steps skipped": "not a finite number",
        "1 image replaced during training": "another image",
        "Interrupted and resumed 2 times": "last saved state",
        "Training waited for images": "55.0%",
        "The last epoch was the best": "more epochs",
        "The accuracy is slightly flattering": "same validation images",
        "Slower than the usual alternative": "1.8× slower than MobileNetV3-Large at the same input size",
        "Timings were unsteady": "1 of 4",
    }
    told = found(content)
    assert set(told) == set(expected)
    for title, words in expected.items():
        assert words in told[title].text
    assert told["1 image left out"].items == ("rose/1.jpg: truncated",)
    assert told["1 class with fewer than 10 validation images"].items == ("iris: 2",)


def test_a_machine_that_is_busy_throughout_is_told(found, make_results):
    content = make_results()
    row = content["benchmark.json"]["rows"][0]
    row.update(min_ms=2.0, p50_ms=7.0, p90_ms=7.4)
    assert "twice as long as the fastest" in found(content)["Timings were unsteady"].text
    row.update(min_ms=6.0)
    assert "Timings were unsteady" not in found(content)


def test_a_faultless_run_has_nothing_to_tell_but_that(found, make_run, make_results):
    content = make_results(per_class=400, wrong=3)
    content["training.json"]["pretrained"]["used"] = True
    content["evaluation.json"]["split"] = "test"
    for row in content["benchmark.json"]["rows"]:
        row.update(min_ms=0.9, p50_ms=1.0, p90_ms=1.1)
    assert found(content) == {}
    files = read_run(make_run(content | {"metrics.jsonl": None}))
    assert clean_record(files).startswith("Nothing was skipped: all 20,000 images could be read")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("data.json", {"problems": [{"key": "a", "problem": "b"}]}),
        ("training.json", {"skipped_steps": 1}),
        ("training.json", {"replaced_samples": [{"key": "a", "problem": "b"}]}),
    ],
)
def test_no_clean_record_when_something_was_skipped(make_run, make_results, name, values):
    assert clean_record(read_run(make_run(changed(make_results(), name, **values)))) == ""


@pytest.mark.parametrize("name", ["data.json", "training.json"])
def test_no_clean_record_before_it_is_known(make_run, make_results, name):
    assert clean_record(read_run(make_run(make_results() | {name: None}))) == ""


def test_a_failed_verification_is_the_first_thing_told(make_run, make_results):
    content = make_results()
    content["export.json"]["verification"].update(passed=False, top1_agreement=0.91, max_abs_diff=0.3)
    first = notices(read_run(make_run(content)))[0]
    assert (first.level, first.title) == ("problem", "The model file was not verified")
    assert "91.0% of 256 images" in first.text
    assert "up to 0.3 (allowed: 0.0001)" in first.text


def test_guessing_is_not_passed_off_as_skill(found, make_results):
    told = found(make_results(("cat", "dog"), per_class=10, wrong=5))
    assert "would be right on 50.0%" in told["Not clearly better than guessing"].text


def test_one_class_says_nothing(found, make_results):
    assert "All measured images are of one class" in found(make_results(("cat",), per_class=30, wrong=0))


def test_classes_never_recognised_are_listed(found, make_results):
    content = make_results()
    content["evaluation.json"]["per_class"][2]["recall"] = 0.0
    assert found(content)["1 class never recognised"].items == ("foxglove",)


def test_over_budget(found, make_results):
    content = changed(make_results(), "model.json", budget={"macs": 1000, "params": None})
    assert found(content)["Over budget: MACs"].level == "problem"


def test_weights_without_an_open_licence(found, make_results):
    content = make_results()
    content["training.json"]["pretrained"].update(
        used=True, licence="Apple sample-code licence (not open source)"
    )
    assert "Apple sample-code" in found(content)["The pretrained weights are not under an open licence"].text


def test_an_unfinished_job_says_what_is_missing(found, make_results):
    told = found(make_results() | {"export.json": None, "benchmark.json": None})
    assert "writing the model file, measuring the speed" in told["This job is not finished"].text


def test_comparisons_are_per_thread_count_and_precision(make_results):
    benchmark = make_results()["benchmark.json"]
    benchmark["rows"][0]["precision"] = "int8"
    benchmark["rows"][3]["resolution"] = 224
    first, second = comparisons(benchmark)
    assert first.startswith(
        "mobilevitv2_050 (int8) is 1.8× slower than MobileNetV3-Large at the same input size"
    )
    assert "on 1 thread of this CPU: 3.24 ms against 1.80 ms" in first
    assert "MobileNetV3-Large at 224 px, on 2 threads" in second


def test_without_a_baseline_nothing_is_compared(make_results):
    benchmark = make_results()["benchmark.json"]
    assert comparisons({**benchmark, "rows": benchmark["rows"][:1]}) == []
