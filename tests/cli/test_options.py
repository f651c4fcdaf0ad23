"""Options of a model from the command line into every file of a run."""

import json

import onnx
import pytest
import torch

from pocketvit.backbones import create_model
from pocketvit.core.rundir import RunDirectory
from pocketvit.deployment import ExportedClassifier
from pocketvit.training import load_model

# At 96 px MobileViTv2 has a map of 3 × 3, which its official code enlarges to 4 × 4.
JOB = ["digits", "--limit", 80, "--model", "mobilevitv2_050", "-r", 96, "--epochs", 1, "--workers", 0]
SCRATCH = ["--pretrained", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from pocketvit.cli.main import main

    path = tmp_path_factory.mktemp("official") / "run"
    words = ["train", *JOB, *SCRATCH, "--model-kwargs", "official_resize=true", "--out", path]
    assert main([str(word) for word in words]) == 0
    assert main(["export", str(path)]) == 0
    return RunDirectory(path)


def test_options_are_in_every_file(run):
    expected = {"official_resize": True}
    card = json.loads((run.checkpoints / "model.json").read_text())["card"]
    written = {entry.key: entry.value for entry in onnx.load(run.onnx).metadata_props}
    assert run.read("run.json")["config"]["options"] == expected
    assert run.read("model.json")["options"] == expected
    assert card["options"] == expected
    assert json.loads(written["options"]) == expected
    assert run.read("export.json")["metadata"]["options"] == expected
    assert "official_resize: yes" in run.report.read_text()


def test_the_network_and_the_file_compute_what_was_trained(run):
    network, card = load_model(run.checkpoints / "model.safetensors")
    default = create_model(card.name, num_classes=len(card.classes)).eval()
    default.load_state_dict(network.state_dict())
    images = torch.rand(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, other = network(images), default(images)
    torch.testing.assert_close(ExportedClassifier.load(run.onnx)(images), ours, rtol=1e-3, atol=1e-4)
    assert (other - ours).abs().max() > 1e-3, "the default would compute something else"


def test_a_run_goes_on_with_its_options_and_with_no_others(cli, run):
    code, _, err = cli("train", "--resume", run.path)
    assert code == 0
    assert err.count("already done, reused") == 3
    code, _, err = cli("train", *JOB, *SCRATCH, "--out", run.path)
    assert code == 7
    assert "options: {'official_resize': True} before, {} now" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("offical_resize=true", "Did you mean official_resize?"),
        ("output_stride=yes", "The model option output_stride cannot be True."),
        ("output_stride=64", "Choose 8, 16 or 32."),
        ("official_resize", "--model-kwargs official_resize: not of the form KEY=VALUE."),
        ("output_stride=[", "--model-kwargs output_stride=[: the value is not YAML."),
    ],
)
def test_what_no_model_has_is_refused(cli, tmp_path, given, message):
    code, _, err = cli("train", *JOB, "--model-kwargs", given, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run/checkpoints").exists()


def test_options_need_a_model(cli, tmp_path):
    words = ["--limit", 80, "--model-kwargs", "official_resize=true", "--out", tmp_path / "run"]
    code, _, err = cli("train", "digits", *words)
    assert code == 2
    assert "Name it with --model." in err
