import io

import pytest
from rich.console import Console

from pocketvit.reporting import summary_table, write_report
from pocketvit.reporting.tables import (
    benchmark_table,
    candidates_table,
    data_report_table,
    evaluation_table,
    models_table,
    predictions_table,
)


def shown(renderable, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return " ".join(console.file.getvalue().split())


def test_summary_has_the_headline_the_warnings_and_the_places(make_run, make_results):
    run = make_run(make_results())
    run.onnx.write_bytes(b"model")
    write_report(run)
    text = shown(summary_table(run), width=300)
    for words in (
        "mobilevitv2_050, 10 classes, 64 px input",
        "92.5% (95% interval 89.5% to 94.7%, n = 400)",
        "3.24 ms per image (p50, 1 thread)",
        "4.48 MB, verified: same answer as the network on 100% of 256 images",
        "mobilevitv2_050 is 1.8× slower than MobileNetV3-Large",
        "caution: Few images to measure on.",
        str(run.onnx),
        str(run.report),
    ):
        assert words in text, words
    assert text.count("1.8× slower") == 1


@pytest.mark.parametrize(("epochs", "words"), [(1, "for 1 epoch, best"), (2, "for 2 epochs, best")])
def test_summary_counts_epochs(make_run, make_results, epochs, words):
    content = make_results()
    content["training.json"]["epochs"] = epochs
    assert words in shown(summary_table(make_run(content)), width=200)


def test_summary_of_a_run_that_has_only_begun(make_run, make_results):
    text = shown(summary_table(make_run({"run.json": make_results()["run.json"]})))
    assert "This job is not finished" in text


def test_summary_names_a_failed_verification(make_run, make_results):
    content = make_results()
    content["export.json"]["verification"]["passed"] = False
    assert "NOT verified" in shown(summary_table(make_run(content)), width=200)


def test_candidates(make_results):
    text = shown(candidates_table(make_results()["model.json"]))
    assert "mobilevitv2_050 64 px 38.2 M 1.11 M yes chosen" in text
    assert "swiftformer_s 64 px 120 M 5.60 M no 1.2× the MACs allowed" in text


def test_benchmark(make_results):
    text = shown(benchmark_table(make_results()["benchmark.json"]))
    assert "Speed on Example CPU @ 2.10GHz, onnxruntime 1.31.1" in text
    assert "MobileNetV3-Large @ 64 1 1.80 ms 2.02 ms 96 MB 16.9 MB 4.21 M 19.0 M" in text


def test_evaluation_shows_the_weakest_classes(make_results):
    evaluation = make_results()["evaluation.json"]
    evaluation["per_class"][9]["recall"] = 0.1
    evaluation["per_class"][8].update(n=0, recall=0.0)
    text = shown(evaluation_table(evaluation))
    assert text.startswith("top-1 92.5% (95% interval 89.5% to 94.7%, n = 400), top-5 99.8%")
    assert text.index("tulip") < text.index("daisy")
    assert "sunflower" not in text
    assert "weakest classes first; 4 more" in text


def test_predictions():
    answers = [
        {
            "image": "a.jpg",
            "top": [{"class": "cat", "probability": 0.9}, {"class": "dog", "probability": 0.1}],
        },
        {"image": "b.jpg", "problem": "b.jpg is truncated."},
    ]
    text = shown(predictions_table(answers))
    assert "a.jpg cat 90.0% dog 10.0% b.jpg b.jpg is truncated." in text


def test_models():
    row = {
        "name": "m",
        "resolution": 256,
        "params": 10**6,
        "macs": 10**8,
        "hub_weights": None,
        "weights_licence": "MIT",
    }
    hub = row | {"name": "n", "hub_weights": "n.in1k"}
    rows = "m 256 px 100 M 1.00 M none n 256 px 100 M 1.00 M n.in1k MIT"
    assert rows in shown(models_table([row, hub]))


@pytest.mark.parametrize("name", ["[bold]rose[/]", "[/]", "[link=x]y"])
def test_markup_in_names_is_text(make_run, make_results, name):
    content = make_results((name, "b", "c"))
    content["model.json"]["name"] = content["benchmark.json"]["rows"][0]["name"] = name
    content["model.json"]["candidates"][0]["note"] = content["benchmark.json"]["hardware"]["cpu"] = name
    assert name in shown(summary_table(make_run(content)))
    assert name in shown(evaluation_table(content["evaluation.json"]))
    assert name in shown(candidates_table(content["model.json"]))
    assert name in shown(predictions_table([{"image": name, "top": [{"class": name, "probability": 1.0}]}]))


REPORT = {
    "source": "photos/",
    "classes": [{"name": "cat", "train": 1200, "val": None}, {"name": "dog", "train": 9, "val": None}],
    "short_side": {"min": 32, "median": 200, "max": 900},
    "formats": {"JPEG": 1200, "PNG": 9},
    "modes": {"RGB": 1209},
    "findings": [
        {"severity": "error", "what": "Too many damaged images", "where": [], "advice": "Repair them."},
        {
            "severity": "note",
            "what": "7 images grey",
            "where": [f"cat/{i}.jpg" for i in range(7)],
            "advice": "Check.",
        },
    ],
    "unusable": True,
}


def test_data_report():
    text = shown(data_report_table(REPORT))
    for words in (
        "cat 1,200 –",
        "formats: 1,200 JPEG, 9 PNG",
        "short sides: 32 to 900 pixels, half of them up to 200",
        "error: Too many damaged images. Repair them.",
        "note: 7 images grey. Check. cat/0.jpg",
        "cat/4.jpg and 2 more; --json lists them all",
    ):
        assert words in text, words


def test_data_report_of_a_sound_data_set():
    assert "Nothing odd was found." in shown(data_report_table(REPORT | {"findings": []}))


def test_data_report_of_a_folder_that_cannot_be_read(tmp_path):
    from pocketvit.data.doctor import inspect

    text = shown(data_report_table(inspect(tmp_path / "absent").to_dict()))
    assert "error:" in text


def test_long_data_reports_are_cut():
    rows = [{"name": f"c{i}", "train": 1, "val": 1} for i in range(40)]
    text = shown(data_report_table(REPORT | {"classes": rows}))
    assert "and 10 more" in text
    assert "c30" not in text
