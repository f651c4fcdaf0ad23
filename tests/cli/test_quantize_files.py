"""What `pocketvit quantize` writes, and what it refuses to announce."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest

from pocketvit.core.errors import ConfigError
from pocketvit.core.files import read_json, sha256_of
from pocketvit.core.rundir import RunDirectory
from pocketvit.deployment import ExportedClassifier, integer_delivery, integer_verification, openvino
from pocketvit.deployment.integer_verification import IntegerVerification
from pocketvit.deployment.openvino import has_bfloat16, has_openvino

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture
def agreeing(monkeypatch):
    """A network of one epoch hardly prefers a class, so rounding decides among them; judge it as trained."""
    found = integer_delivery.verify_integer

    def lenient(*args, **kwargs):
        results = found(*args, **{**kwargs, "strict": False})
        return [IntegerVerification(**{**result.to_dict(), "passed": True}) for result in results]

    monkeypatch.setattr(integer_delivery, "verify_integer", lenient)


@pytest.fixture
def plain_run(finished_plain_run, tmp_path):
    """A copy of a run of a network of a few convolutions, which may be changed."""
    copy = tmp_path / "plain-run"
    shutil.copytree(finished_plain_run.path, copy)
    return RunDirectory(copy)


@pytest.fixture
def quantize_plain(cli, plain_run):
    """`pocketvit quantize` of that run by the quickest method."""
    return lambda *words: cli("quantize", plain_run.path, "--method", "minmax", "--no-diagnose", *words)


@pytest.mark.slow
def test_a_run_gets_an_integer_file_and_says_all_about_it(quantize_plain, cli, plain_run, agreeing):
    run = plain_run
    code, out, err = quantize_plain("--json", "--calibration", 16, "--keep-float", "head.fc")
    assert code == 0, err
    content = json.loads(out)
    assert content == read_json(run.path / "quantization.json")
    path = run.path / content["file"]
    assert path.name == "model.int8.onnx"
    assert content["sha256"] == sha256_of(path)
    assert content["bytes"] < content["float_bytes"] == run.onnx.stat().st_size
    assert content["calibration"] == {"n": 16, "classes": 10, "of": 10, "seed": 0}
    assert content["n"] == run.read("evaluation.json")["n"]
    assert content["accuracy"]["float"]["value"] == run.read("evaluation.json")["top1"]["value"]
    assert set(content["accuracy"]) == {"float", "simulated", "file"}
    assert {row["n"] for row in content["verification"]} == {160}, "topped up with training images"
    card = ExportedClassifier.load(path).card
    assert card.accuracy == content["accuracy"]["simulated"]["value"]
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}

    head = next(row for row in content["execution"] if row["operator"] == "head.fc")
    assert head["precision"]["onnxruntime"] == "float32"
    assert "--keep-float" in head["reason"]["onnxruntime"]
    first, *convolutions = [row for row in content["execution"] if row["kind"] == "convolution"]
    assert first["precision"]["onnxruntime"] == "float32"
    assert "reads the image" in first["reason"]["onnxruntime"]
    assert {row["precision"]["onnxruntime"] for row in convolutions} == {"int8"}

    rows = run.read("benchmark.json")["rows"]
    assert [(row["role"], row["precision"]) for row in rows] == [
        ("ours", "float32"),
        ("ours", "int8"),
        ("baseline", "float32"),
    ]
    report = run.report.read_text()
    assert "model.int8.onnx" in report
    assert ">head.<wbr>fc<" in report

    code, out, err = quantize_plain("--calibration", 16, "--keep-float", "head.fc")
    assert code == 0
    assert "already done, reused" in err
    assert "95% interval" in out
    assert "in float (ONNX Runtime" in out
    cli("build", "--resume", run.path, "--overwrite", "--bits", 9)
    assert path.exists(), "a wrong width is refused before anything is deleted"
    run.clear()
    assert not path.exists()


@pytest.mark.slow
def test_a_file_that_fails_is_not_announced(quantize_plain, plain_run, monkeypatch):
    monkeypatch.setattr(integer_verification, "MIN_INTEGER_AGREEMENT", 1.1)  # more than all
    monkeypatch.setattr(integer_verification, "MAX_ROUNDING", -1)  # less than none
    code, _, err = quantize_plain("--calibration", 10)
    assert code == 6
    assert "of 160 images get the same class (required 110.0%; rounding in float32 alone leaves" in err
    assert not (plain_run.path / "model.int8.onnx").exists()
    assert (plain_run.path / "model.int8.unverified.onnx").exists()
    assert not plain_run.has("quantization.json")


def test_what_is_not_a_trained_network(cli, run, tmp_path):
    code, _, err = cli("quantize", run.onnx)
    assert code == 5
    assert "cannot be quantized any more" in err
    code, _, err = cli("quantize", tmp_path / "none" / "here")
    assert code == 7
    assert "There is no" in err
    code, _, err = cli("quantize", "mobilvit_xxs")
    assert code == 2
    assert "Did you mean mobilevit_xxs" in err


def test_weights_on_their_own_need_data_and_a_place(cli, run):
    weights = run.checkpoints / "model.safetensors"
    code, _, err = cli("quantize", weights)
    assert code == 2
    assert "--data" in err
    code, _, err = cli("quantize", weights, "--data", "digits", "--limit", 160)
    assert code == 2
    assert "--out" in err
    code, _, err = cli("quantize", run.path, "--weights", 6, "--precision", "int8")
    assert code == 2, "no such option"


@pytest.mark.slow
def test_other_widths_take_the_place_of_the_file(quantize_plain, cli, plain_run, agreeing):
    """One integer file, and all that speaks of it speaks of that one."""
    code, _, err = quantize_plain("--calibration", 8, "--weights", 6, "--activations", 6)
    assert code == 0, err
    assert ExportedClassifier.load(plain_run.path / "model.int6.onnx").card.precision == "int6"
    code, out, err = quantize_plain("--calibration", 8, "--average-bits", 6)
    assert code == 0, err
    assert "model.int6.onnx is gone" in err
    assert "Widths of the weights" in out
    assert [path.name for path in plain_run.path.glob("model.*.onnx")] == ["model.mixed.onnx"]
    content = plain_run.read("quantization.json")
    assert content["file"] == "model.mixed.onnx" == plain_run.integer_file.name
    assert content["mixed"]["average_bits"] <= 6
    assert content["mixed"]["packed_bytes"] < content["mixed"]["int8_bytes"]
    precisions = [row["precision"] for row in plain_run.read("benchmark.json")["rows"]]
    assert precisions == ["float32", "mixed", "float32"]
    assert "model.int6.onnx" not in plain_run.report.read_text()
    code, out, _ = cli("benchmark", plain_run.path, "--threads", 1, "--json")
    assert [row["precision"] for row in json.loads(out)["rows"]] == precisions
    code, _, err = quantize_plain("--calibration", 8, "--average-bits", 6)
    assert "already done, reused" in err
    code, _, err = quantize_plain("--calibration", 8, "--average-bits", 5)
    assert "already done" not in err
    assert plain_run.read("quantization.json")["mixed"]["average_bits"] <= 5


@pytest.mark.slow
def test_a_folder_of_ones_own_keeps_every_file(quantize_plain, tmp_path, agreeing):
    for words in (("--weights", 4), ("--weights", 8)):
        code, _, err = quantize_plain("--calibration", 8, "--out", tmp_path / "phone", *words)
        assert code == 0, err
    names = {path.name for path in (tmp_path / "phone").iterdir()}
    assert names == {"model.w4a8.onnx", "model.int8.onnx", "quantization.json"}


@pytest.mark.slow
@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
def test_a_file_for_openvino_is_verified_and_timed_there(quantize_plain, plain_run, agreeing):
    code, out, err = quantize_plain("--runtime", "openvino", "--json", "--calibration", 16)
    assert code == 0, err
    content = json.loads(out)
    assert (content["file"], content["runtime"]) == ("model.int8.openvino.onnx", "openvino")
    assert [row["runtime"] for row in content["verification"]] == ["openvino"]
    convolutions = [row for row in content["execution"] if row["kind"] == "convolution"]
    assert {row["precision"]["openvino"] for row in convolutions} == {"int8"}
    rows = {
        (row["role"], row["runtime"], row["precision"]) for row in plain_run.read("benchmark.json")["rows"]
    }
    floats = {(role, runtime, "float32") for role in ("ours", "baseline") for runtime in RUNTIMES}
    halves = {("ours", "openvino", "bfloat16"), ("baseline", "openvino", "bfloat16")}
    assert rows == floats | {("ours", "openvino", "int8")} | (halves if has_bfloat16() else set())
    report = plain_run.report.read_text()
    assert "int8, OpenVINO" in report
    assert ("than bfloat16" in report) == has_bfloat16()


def test_openvino_has_to_be_there_for_its_file(quantize, monkeypatch):
    monkeypatch.setattr(openvino, "has_openvino", lambda: False)
    code, _, err = quantize("--runtime", "openvino")
    assert code == ConfigError.exit_code
    assert "pocketvit[openvino]" in err
