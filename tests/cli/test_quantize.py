"""`pocketvit quantize`, and the errors a person meets there."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvit.cli import quantize as verb
from pocketvit.core.files import read_json, sha256_of, write_json
from pocketvit.quantization import METHODS
from pocketvit.quantization.methods import Method
from pocketvit.quantization.quantizers import UniformQuantizer
from pocketvit.quantization.ranges import least_error


def test_the_operators_are_listed_without_any_work(cli, run):
    code, out, _ = cli("quantize", run.path, "--list", "--json", "--keep-float", "stages.*")
    rows = json.loads(out)
    assert code == 0
    assert {row["kind"] for row in rows} >= {"convolution", "linear", "matmul", "addition", "softmax"}
    kept = {row["operator"] for row in rows if not row["quantized"]}
    assert all(name in kept for name in (row["operator"] for row in rows) if name.startswith("stages."))
    assert not run.has("quantization.json")
    code, out, _ = cli("quantize", run.path, "--list")
    assert code == 0
    assert "float (--scope full)" in out


def test_simulation_measures_and_writes_nothing(quantize, run):
    before = {path.name for path in run.path.iterdir()}
    code, out, _ = quantize("--simulate", "--calibration", 10)
    assert code == 0
    assert "no file was written" in out
    assert {path.name for path in run.path.iterdir()} == before


def test_a_method_without_integers_says_what_to_do(cli, run):
    code, _, err = cli("quantize", run.path, "--method", "ptq4vit")
    assert code == 2
    assert "--method pocket" in err
    assert "--simulate" in err
    code, out, _ = cli("quantize", run.path, "--method", "fqvit", "--simulate", "-n", 10, "--no-diagnose")
    assert code == 0
    assert "Simulated only: no integer kernel computes with the numbers that fqvit" in out


def test_help_names_every_method_and_which_are_simulated():
    assert METHODS.keys() == {*verb.METHODS, *verb.SIMULATED}
    assert {name for name, method in METHODS.items() if not method.integer} == {*verb.SIMULATED}


def test_unknown_method_gets_a_suggestion(cli, run):
    code, _, err = cli("quantize", run.path, "--method", "pokcet")
    assert code == 2
    assert "Did you mean pocket" in err


def test_no_calibration_images(quantize):
    code, _, err = quantize("--calibration", 0)
    assert code == 4
    assert "no calibration images" in err


def test_calibration_images_of_one_class(cli, run, photos, monkeypatch):
    """All images of one class: refused with the data, before any network looks at them."""
    for name in ("green", "blue"):
        shutil.rmtree(photos / name)
    code, _, err = cli("quantize", run.path, "--data", photos)
    assert code == 4
    assert "class" in err


def test_images_of_other_classes(cli, run, photos):
    code, _, err = cli("quantize", run.path, "--data", photos)
    assert code == 4
    assert "does not know these classes: blue" in err


@pytest.mark.parametrize("words", [("--weights", 9), ("--activations", 1)])
def test_unsupported_bits(quantize, words):
    code, _, err = quantize(*words)
    assert code == 2
    assert f"{words[1]} bits are not supported" in err


def test_build_refuses_unsupported_bits_before_training(cli, tmp_path):
    code, _, err = cli("build", "digits", "--bits", 9, "--out", tmp_path / "run")
    assert code == 2
    assert "9 bits are not supported" in err
    assert not (tmp_path / "run").exists()


def test_a_pattern_that_matches_nothing(quantize):
    code, _, err = quantize("--keep-float", "stages.99.*")
    assert code == 2
    assert "No operator is called 'stages.99.*'" in err
    assert "--list" in err


def test_an_operator_that_cannot_be_lowered(cli, run, monkeypatch):
    """A method that gives every input channel its scale, which cannot leave the sum over channels."""

    def calibrate(network, operators, calibration, spec):
        operator = network.operator("head.fc")
        grid = least_error(calibration.images[:, 0], bits=8)
        scale = grid.scale.expand(operator.weight.shape[1])
        operator.set_input(0, UniformQuantizer(scale=scale, qmin=-128, qmax=127, axis=1))

    method = Method(name="by_channel", calibrate=calibrate, title="", source="", integer=True)
    monkeypatch.setitem(METHODS, method.name, method)
    code, _, err = cli("quantize", run.path, "--method", "by_channel", "--calibration", 10)
    assert code == 6
    assert "input 0 of head.fc" in err
    assert "keep it in float" in err
    assert not run.has("quantization.json")
    assert not list(run.path.glob("model.int8*"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--average-bits", 6, "--size-budget", "250k"), "are two budgets"),
        (("--average-bits", 6, "--weights", 8), "a budget chooses them"),
        (("--size-budget", "little"), "'little' is not a count"),
        (("--average-bits", "nan"), "no budget"),
        (("--average-bits", 3), "less than the smallest width, 4"),
        (("--size-budget", "0.01x"), "the network still has"),
    ],
)
def test_budgets_that_cannot_be_met(quantize, run, words, told):
    code, _, err = quantize(*words, "--simulate", "--calibration", 4)
    assert code == 2
    assert told in err


def test_widths_within_a_budget(quantize):
    code, out, err = quantize("--simulate", "--calibration", 4, "--size-budget", "0.22x", "--json")
    assert code == 0, err
    content = json.loads(out)
    mixed = content["mixed"]
    assert mixed["packed_bytes"] <= 0.22 * mixed["float_bytes"] < mixed["int8_bytes"]
    chosen = {row["operator"]: row["bits"] for row in mixed["operators"]}
    assert {name: bits["weights"] for name, bits in content["spec"]["bits"].items()} == chosen
    assert len(set(chosen.values())) > 1
    code, out, _ = quantize("--simulate", "--calibration", 4, "--average-bits", 6)
    assert code == 0
    assert "Widths of the weights:" in out
    assert "no smaller than at 8 bits" in out


def test_less_than_no_images(quantize):
    code, _, err = quantize("--calibration", -1)
    assert code == 2
    assert "--calibration" in err


def test_weights_that_are_no_numbers(quantize, run):
    weights = run.checkpoints / "model.safetensors"
    tensors = load_file(weights)
    tensors["head.fc.weight"][0, 0] = torch.nan
    save_file(tensors, weights)
    facts = read_json(weights.with_suffix(".json"))
    write_json(weights.with_suffix(".json"), {**facts, "sha256": sha256_of(weights)})
    code, _, err = quantize("--simulate", "--calibration", 4)
    assert code == 4
    assert "The weights of head.fc are not all finite" in err
