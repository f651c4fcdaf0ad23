import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.reporting.sections import (
    class_list,
    column_names,
    confused_pairs,
    confusion_cells,
    costs,
    curves,
    latency_bars,
    main_row,
    per_class_rows,
    settings_of,
    short_columns,
    shown_candidates,
    shown_mistakes,
)
from pocketvit.reporting.source import read_run


def test_confusion_shares_are_of_the_true_class(make_results):
    evaluation = make_results(("a", "b"))["evaluation.json"] | {"confusion": [[3, 1], [0, 0]]}
    cells = confusion_cells(evaluation)
    assert [(cell.n, cell.share, cell.right) for row in cells for cell in row] == [
        (3, 0.75, True),
        (1, 0.25, False),
        (0, 0.0, False),
        (0, 0.0, True),
    ]


def test_confused_pairs_leave_out_right_answers(make_results):
    evaluation = make_results(("a", "b", "c"))["evaluation.json"]
    evaluation["confusion"] = [[5, 2, 0], [7, 1, 0], [0, 0, 9]]
    assert confused_pairs(evaluation, most=5) == [
        {"true": "b", "predicted": "a", "n": 7, "of": 8},
        {"true": "a", "predicted": "b", "n": 2, "of": 7},
    ]
    assert len(confused_pairs(evaluation, most=1)) == 1


def test_weakest_class_first_and_unmeasured_last(make_run, make_results):
    content = make_results(("a", "b", "c"))
    content["evaluation.json"]["confusion"] = [[9, 1, 0], [0, 0, 0], [9, 1, 0]]
    numbers = [(10, 0.9, 0.5), (0, 0.0, 0.0), (10, 0.0, 0.0)]
    for row, (n, recall, precision) in zip(content["evaluation.json"]["per_class"], numbers, strict=True):
        row.update(n=n, recall=recall, precision=precision)
    rows = per_class_rows(read_run(make_run(content)))
    assert [(row["name"], row["recall"], row["precision"]) for row in rows] == [
        ("c", 0.0, None),
        ("a", 0.9, 0.5),
        ("b", None, 0.0),
    ]
    assert rows[0]["n_train"] == 160


def test_mistakes_are_most_confident_first_and_only_embedded_pictures_are_shown(make_results):
    evaluation = make_results()["evaluation.json"]
    evaluation["mistakes"][0].update(image="https://example.org/x.jpg", confidence=0.2)
    shown = shown_mistakes(evaluation)
    assert [mistake["confidence"] for mistake in shown] == sorted(
        (m["confidence"] for m in shown), reverse=True
    )
    assert shown[-1]["image"] is None
    assert all(mistake["image"].startswith("data:image/jpeg") for mistake in shown[:-1])


def test_bars_share_one_scale_and_start_with_ours(make_results):
    groups = dict(latency_bars(make_results()["benchmark.json"]))
    assert list(groups) == ["1 thread", "2 threads"]
    ours, theirs = groups["1 thread"]
    assert (ours.role, ours.name, ours.reach) == ("ours", "mobilevitv2_050", 100)
    assert theirs.name == "MobileNetV3-Large"
    assert theirs.length / ours.length == pytest.approx(1.80 / 3.24, rel=1e-3)
    assert groups["2 threads"][0].length / ours.length == pytest.approx(2.10 / 3.24, rel=1e-3)


def test_a_disturbed_measurement_does_not_squeeze_the_bars(make_results):
    benchmark = make_results()["benchmark.json"]
    benchmark["rows"][1]["p90_ms"] = 400.0
    (ours, theirs), _ = (bars for _, bars in latency_bars(benchmark))
    assert (ours.length, ours.cut) == (50, False)
    assert (theirs.reach, theirs.cut) == (100, True)


def test_costs_name_each_model_once_with_its_largest_memory(make_results):
    rows = costs(make_results()["benchmark.json"])
    assert [(row["name"], row["peak_memory_mb"]) for row in rows] == [
        ("mobilevitv2_050", 91),
        ("MobileNetV3-Large", 99),
    ]


def test_precision_is_named_only_where_it_differs(make_results):
    benchmark = make_results()["benchmark.json"]
    benchmark["rows"].append({**benchmark["rows"][0], "precision": "int8"})
    assert {row["name"] for row in costs(benchmark)} == {
        "mobilevitv2_050 (float32)",
        "mobilevitv2_050 (int8)",
        "MobileNetV3-Large (float32)",
    }


def test_the_headline_is_our_fewest_threads(make_results):
    benchmark = make_results()["benchmark.json"]
    assert main_row(benchmark)["p50_ms"] == 3.24
    assert main_row({**benchmark, "rows": []}) is None


def test_candidates_start_with_the_chosen_one_then_near_misses(make_results):
    model = make_results()["model.json"]
    near = {**model["candidates"][2], "name": "near", "macs": 101_000_000}
    extra = [{**model["candidates"][2], "name": f"far{i}", "macs": 10**9 + i} for i in range(12)]
    model["candidates"] = [*extra, *model["candidates"], near]
    first, rest = shown_candidates(model)
    assert [row["name"] for row in first[:4]] == ["mobilevitv2_050", "mobilevit_xxs", "near", "swiftformer_s"]
    assert len(first) + len(rest) == 16


def test_nested_settings_are_flattened():
    values = {"lr": 0.002, "augmentation": {"flip": False, "crop": [0.3, 1.0]}, "mixup": None}
    assert settings_of(values) == [
        ("lr", "0.002"),
        ("augmentation.flip", "no"),
        ("augmentation.crop", "0.3, 1"),
        ("mixup", "none"),
    ]


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (list("abc"), "a, b and c")]
)
def test_class_list(names, text):
    assert class_list(names) == text


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=300))
def test_class_list_stays_short(names):
    assert len(class_list(names)) <= len(names[0]) + 150 + len(" and 999 more")


def test_columns_are_numbered_when_a_name_is_long(make_results):
    assert column_names(make_results(("cat", "dog"))["evaluation.json"]) == ["cat", "dog"]
    assert column_names(make_results(("cat", "a very long name"))["evaluation.json"]) == ["1", "2"]


def test_only_short_columns_are_written_level():
    assert short_columns(["1", "20", "cat"])
    assert not short_columns(["cat", "mouse"])


def test_curves_follow_the_metrics(make_run, make_results):
    files = read_run(make_run(make_results(epochs=5)))
    loss, accuracy, rate = curves(files)
    assert [line.name for line in loss.lines] == ["training", "validation"]
    assert accuracy.best.text == "best epoch: 3"
    assert len(rate.lines[0].dots) == 5


def test_curves_without_metrics(make_run, make_results):
    assert curves(read_run(make_run(make_results() | {"metrics.jsonl": None}))) == []
