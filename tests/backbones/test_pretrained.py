import json
import os
import pickle
import time
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pocketvit.backbones import create_model, get_entry, pretrained
from pocketvit.backbones.pretrained import load_pretrained
from pocketvit.core.errors import CheckpointError
from pocketvit.core.files import sha256_of

NAME = "mobilevitv2_050"


@pytest.fixture
def weights(randomise):
    return randomise(create_model(NAME, num_classes=10)).state_dict()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model(NAME, num_classes=10)


def same(model, weights, *, but=()):
    state = model.state_dict()
    return all(torch.equal(state[key], weights[key]) for key in weights if key not in but)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_ema"])
def test_a_pytorch_file_fills_the_network(tmp_path, model, weights, wrapper):
    path = tmp_path / "weights.pth"
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, path)
    report = load_pretrained(model, get_entry(NAME), path)
    assert same(model, weights)
    assert report.used
    assert report.source == str(path)
    assert (report.matched, report.missing, report.unexpected) == (len(weights), [], [])


def test_averaged_weights_are_preferred(tmp_path, model, weights):
    path = tmp_path / "weights.pt"
    torch.save({"model": {k: torch.zeros_like(v) for k, v in weights.items()}, "model_ema": weights}, path)
    load_pretrained(model, get_entry(NAME), path)
    assert same(model, weights)


def test_a_safetensors_file_fills_the_network(tmp_path, model, weights):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    assert load_pretrained(model, get_entry(NAME), path).used
    assert same(model, weights)


def test_a_classifier_for_other_classes_stays_out_and_is_mentioned(tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    model = create_model(NAME, num_classes=4)
    before = model.head.fc.weight.clone()
    report = load_pretrained(model, get_entry(NAME), path)
    assert "classifier" in report.message
    assert report.missing == ["head.fc.weight", "head.fc.bias"]
    assert torch.equal(model.head.fc.weight, before)
    assert same(model, weights, but=report.missing)


def test_another_architecture_is_refused_and_nothing_is_loaded(tmp_path, model, randomise):
    path = tmp_path / "weights.pth"
    torch.save(randomise(create_model("swiftformer_xs", num_classes=10)).state_dict(), path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"0 of 269 tensors match.*missing: stem\.conv\.weight.*unexpected: stem\.0"
    ):
        load_pretrained(model, get_entry(NAME), path)
    assert same(model, before)


def test_another_width_is_refused(tmp_path, model, randomise):
    path = tmp_path / "weights.pth"
    torch.save(randomise(create_model("mobilevitv2_075", num_classes=10)).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"of another shape: stem\.conv\.weight"):
        load_pretrained(model, get_entry(NAME), path)


class _Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, model, write):
    path, proof = tmp_path / "weights.pth", tmp_path / "proof"
    if write == "torch":
        torch.save({"model": _Attack(proof)}, path)
    else:
        path.write_bytes(pickle.dumps(_Attack(proof)))
    with pytest.raises(CheckpointError, match="never loaded"):
        load_pretrained(model, get_entry(NAME), path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(_Attack(proof)))  # the attack is a real one
    assert proof.exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_any_other_bytes_are_refused(tmp_path, content, start):
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(start + content)
        with pytest.raises(CheckpointError):
            load_pretrained(torch.nn.Linear(1, 1), get_entry(NAME), path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100, 100_000])
def test_a_truncated_file_is_refused(tmp_path, model, weights, suffix, kept):
    path = tmp_path / f"weights{suffix}"
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"cannot be read as weights"):
        load_pretrained(model, get_entry(NAME), path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3), {}, 5])
def test_a_file_without_named_tensors_is_refused(tmp_path, model, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        load_pretrained(model, get_entry(NAME), path)


def test_a_missing_file(model):
    with pytest.raises(CheckpointError, match="no weights file"):
        load_pretrained(model, get_entry(NAME), Path("not/there.pth"))


def test_none_keeps_the_initial_weights(model):
    report = load_pretrained(model, get_entry(NAME), "none")
    assert not report.used
    assert "random" in report.message


def test_published_weights_are_loaded_through_timm(tmp_path, monkeypatch, randomise):
    published = randomise(timm.create_model(NAME)).state_dict()
    file = tmp_path / "model.safetensors"
    save_file(published, file)
    monkeypatch.setattr(pretrained, "_fetch", lambda hub: file)
    model = create_model(NAME, num_classes=10)
    report = load_pretrained(model, get_entry(NAME), "auto")
    assert report.used
    assert report.source == "mobilevitv2_050.cvnets_in1k"
    assert "not open source" in report.licence
    assert report.licence in report.message
    assert same(model, published, but=report.missing)
    grey = create_model(NAME, in_chans=1)
    load_pretrained(grey, get_entry(NAME), "auto")
    torch.testing.assert_close(
        grey.state_dict()["stem.conv.weight"], published["stem.conv.weight"].sum(dim=1, keepdim=True)
    )


def test_published_weights_of_a_timm_model(tmp_path, monkeypatch, randomise):
    name = "mobilenetv3_small_050"
    published = randomise(timm.create_model(name)).state_dict()
    file = tmp_path / "model.safetensors"
    save_file(published, file)
    monkeypatch.setattr(pretrained, "_fetch", lambda hub: file)
    model = create_model(name, num_classes=3)
    report = load_pretrained(model, get_entry(name), "auto")
    assert report.missing == ["classifier.weight", "classifier.bias"]
    assert same(model, published, but=report.missing)


def test_no_published_weights_is_said(model):
    report = load_pretrained(model, get_entry("mobilevitv2_060"), "auto")
    assert not report.used
    assert "No published weights of mobilevitv2_060" in report.message


def test_an_unreachable_hub_is_said_within_seconds(tmp_path, monkeypatch, model):
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(pretrained, "hf_hub_url", lambda *_: "http://127.0.0.1:9/model.safetensors")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    start = time.monotonic()
    report = load_pretrained(model, get_entry(NAME), "auto")
    assert time.monotonic() - start < pretrained.HUB_TIMEOUT + 2
    assert not report.used
    assert "could not be fetched" in report.message
    assert same(model, before)


def test_cached_weights_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    assert pretrained._fetch("mobilevit_s.cvnets_in1k") == tmp_path / "model.safetensors"


def write_beside(path, content):
    path.with_suffix(".json").write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("wrap", [lambda facts: facts, lambda facts: {"card": facts}])
def test_the_licence_is_read_from_the_json_beside_the_file(tmp_path, model, weights, wrap):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    assert load_pretrained(model, get_entry(NAME), path).licence == "as the file's owner says"
    write_beside(path, {"sha256": sha256_of(path), **wrap({"weights_licence": "CC-BY-NC-4.0"})})
    report = load_pretrained(model, get_entry(NAME), path)
    assert report.licence == "CC-BY-NC-4.0"
    assert "CC-BY-NC-4.0" in report.message


@pytest.mark.parametrize("content", [[], {}, {"card": 5}, {"weights_licence": None}])
def test_a_json_without_a_licence_says_nothing(tmp_path, model, weights, content):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    write_beside(path, content)
    assert load_pretrained(model, get_entry(NAME), path).licence == "as the file's owner says"


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ({"sha256": "0", "weights_licence": "MIT"}, "SHA-256 is not the one")],
)
def test_a_damaged_or_foreign_json_beside_is_an_error(tmp_path, model, weights, content, message):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    write_beside(path, content)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, get_entry(NAME), path)
