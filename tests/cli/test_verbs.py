"""The verbs that read a finished run."""

import json
import shutil

import pytest
from PIL import Image


@pytest.fixture
def digit_files(tmp_path, finished_run):
    from pocketvit.data import open_images

    split = open_images("digits", limit=160).val
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(3):
        split.load(i).save(folder / f"{i}.png")
    return folder


def test_predict_json_from_a_file_and_from_a_run_agree(cli, finished_run, digit_files):
    code, out, _ = cli("predict", finished_run.onnx, digit_files, "--top", 3, "--json")
    answers = json.loads(out)
    assert code == 0
    assert [len(answer["top"]) for answer in answers] == [3, 3, 3]
    assert all(answer["top"][0]["probability"] >= answer["top"][1]["probability"] for answer in answers)
    assert json.loads(cli("predict", finished_run.path, digit_files, "--top", 3, "--json")[1]) == answers


def test_predict_with_the_network_agrees_with_the_exported_file(cli, finished_run, digit_files, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.path, copy, ignore=shutil.ignore_patterns("*.onnx"))
    ours = json.loads(cli("predict", copy, digit_files, "--json")[1])
    exported = json.loads(cli("predict", finished_run.onnx, digit_files, "--json")[1])
    for a, b in zip(ours, exported, strict=True):
        assert a["top"][0]["class"] == b["top"][0]["class"]
        assert a["top"][0]["probability"] == pytest.approx(b["top"][0]["probability"], abs=1e-4)


def test_predict_lists_what_it_cannot_read(cli, finished_run, digit_files):
    (digit_files / "broken.png").write_bytes(b"no image")
    code, out, _ = cli("predict", finished_run.onnx, digit_files)
    assert code == 0
    assert "broken.png" in out
    code, out, _ = cli("predict", finished_run.onnx, digit_files / "broken.png", "--json")
    assert code == 4
    assert "problem" in json.loads(out)[0]


@pytest.mark.parametrize("missing", ["model", "images"])
def test_predict_says_what_is_missing(cli, finished_run, tmp_path, missing):
    words = (
        [tmp_path / "none.onnx", tmp_path]
        if missing == "model"
        else [finished_run.onnx, tmp_path / "none.jpg"]
    )
    code, _, err = cli("predict", *words)
    assert code in (4, 7)
    assert "There is no" in err


def test_predict_refuses_a_file_that_is_not_a_model(cli, tmp_path, digit_files):
    (tmp_path / "fake.onnx").write_bytes(b"no model")
    code, _, err = cli("predict", tmp_path / "fake.onnx", digit_files)
    assert code == 5
    assert "cannot be opened as an ONNX model" in err


def test_evaluate_a_run_repeats_its_own_score(cli, finished_run):
    code, out, _ = cli("evaluate", finished_run.path, "--json")
    again, before = json.loads(out), finished_run.read("evaluation.json")
    assert code == 0
    assert again["top1"] == before["top1"]
    assert again["confusion"] == before["confusion"]


def test_evaluate_the_exported_file_on_named_data(cli, finished_run):
    code, out, _ = cli(
        "evaluate", finished_run.onnx, "--data", "digits", "--limit", 160, "--split", "all", "--json"
    )
    assert code == 0
    assert json.loads(out)["n"] == 160
    assert cli("evaluate", finished_run.onnx)[0] == 2


def test_evaluate_refuses_classes_the_model_does_not_know(cli, finished_run, photos):
    code, _, err = cli("evaluate", finished_run.onnx, "--data", photos)
    assert code == 4
    assert "does not know these classes: blue" in err


def test_evaluate_takes_the_advice_it_gives_about_damaged_images(cli, finished_run, photos):
    for digit, colour in enumerate(("blue", "green", "red")):
        (photos / colour).rename(photos / str(digit))
    for name in ("00.png", "01.png"):
        (photos / "0" / name).write_bytes(b"text")
    asked = ("evaluate", finished_run.onnx, "--data", photos, "--split", "all", "--json")
    code, _, err = cli(*asked)
    assert code == 4
    assert "(5.6%; 5% is allowed)" in err
    assert "--max-damaged 0.06" in err
    code, out, _ = cli(*asked, "--max-damaged", 0.06)
    assert code == 0
    assert json.loads(out)["n"] == 34


def test_evaluate_table(cli, finished_run):
    assert "95% interval" in cli("evaluate", finished_run.path)[1]


def test_models(cli):
    rows = json.loads(cli("models", "mobilevit_xx*", "--json")[1])
    assert [(row["name"], row["params"], row["macs"]) for row in rows] == [
        ("mobilevit_xxs", 1272024, 407364096)
    ]
    code, out, _ = cli("models", "swiftformer_*", "--resolution", 64)
    assert code == 0
    assert sum(line.startswith("swiftformer_") for line in out.splitlines()) == 4
    code, _, err = cli("models", "nothing*")
    assert code == 2
    assert "There is no model matching 'nothing*'." in err


def test_models_rewrites(cli):
    found = json.loads(cli("models", "--rewrites", "swiftformer_xs", "--resolution", 64, "--json")[1])
    saved = sum(row["params_saved"] for row in found["rewrites"])
    assert found["before"]["params"] - found["after"]["params"] == saved > 0
    code, out, _ = cli("models", "--rewrites", "swiftformer_xs", "--resolution", 64)
    assert code == 0
    assert "average classifiers" in out
    code, _, err = cli("models", "--rewrites", "swiftformer_xxs")
    assert code == 2
    assert "swiftformer_xs" in err


def test_benchmark_prints_our_row_and_mobilenets(cli, finished_run):
    code, out, _ = cli("benchmark", finished_run.path, "--threads", 1, "--json")
    assert code == 0
    assert [row["role"] for row in json.loads(out)["rows"]] == ["ours", "baseline"]


def test_report_is_written_again(cli, finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.path, copy)
    (copy / "report.html").unlink()
    code, out, _ = cli("report", copy)
    assert code == 0
    assert out.strip() == str(copy / "report.html")
    assert (copy / "report.html").exists()
    assert cli("report", tmp_path)[0] == 7


def test_doctor_finds_trouble_and_says_so_in_its_code(cli, photos):
    assert cli("doctor", photos)[0] == 0
    Image.new("RGB", (8, 8)).save(photos / "red" / "twin-a.png")
    Image.new("RGB", (8, 8)).save(photos / "red" / "twin-b.png")
    code, out, _ = cli("doctor", photos)
    assert code == 0
    assert "twin-a.png" in out
    for path in photos.rglob("*.png"):
        path.write_bytes(b"broken")
    code, out, err = cli("doctor", photos)
    assert code == 4
    assert out + err


def test_resume_takes_the_settings_of_the_run_and_reuses_what_is_finished(cli, finished_run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.path, copy)
    code, _, err = cli("build", "--resume", copy)
    assert code == 0
    assert err.count("already done, reused") == 5
    (copy / "benchmark.json").unlink()
    code, _, err = cli("build", "--resume", copy)
    assert code == 0
    assert err.count("already done, reused") == 4
    assert (copy / "benchmark.json").exists()


def test_resume_of_nothing_is_refused(cli, tmp_path):
    code, _, err = cli("train", "--resume", tmp_path)
    assert code == 7
    assert "is not a run directory" in err
