import argparse
import json

import pytest
import torch

from pocketvit.backbones import create_model
from pocketvit.core.errors import CheckpointError


@pytest.fixture
def checkpoint(tmp_path):
    """CAS-ViT as its official training script saves it."""
    torch.manual_seed(0)
    path = tmp_path / "cas-vit-xs.pth"
    torch.save({"model": create_model("cas_vit_xs").state_dict(), "args": argparse.Namespace(lr=1)}, path)
    return path


def test_a_table_of_what_matched_with_the_licence(cli, checkpoint, tmp_path):
    code, out, _ = cli("import", checkpoint, "--out", tmp_path / "weights")
    assert code == 0
    assert (tmp_path / "weights/cas_vit_xs.safetensors").exists()
    lines = [line.split() for line in out.splitlines()]
    assert ["all", "522", "2.98", "M"] in lines
    assert ["head", "2", "221", "k"] in lines
    assert ["names", "as", "in", "Tianfang-Zhang/CAS-ViT"] in lines
    assert "not stated (the official code is MIT)" in out
    assert "cas_vit_xs_384; --model chooses" in out


def test_json(cli, checkpoint, tmp_path):
    out = cli("import", checkpoint, "--out", tmp_path / "weights", "--model", "cas_vit_xs_384", "--json")[1]
    report = json.loads(out)
    assert report["model"] == "cas_vit_xs_384"
    assert report["file"] == str(tmp_path / "weights/cas_vit_xs_384.safetensors")
    assert sum(part["tensors"] for part in report["parts"]) == report["matched"] == 522


def test_a_foreign_file_is_code_5(cli, tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(1)}, path)
    code, out, err = cli("import", path, "--out", tmp_path / "weights")
    assert code == CheckpointError.exit_code
    assert out == ""
    assert "of no code base that is known here" in err
    assert not (tmp_path / "weights").exists()


def test_an_imported_file_trains_and_its_licence_travels(cli, checkpoint, tmp_path):
    cli("import", checkpoint, "--out", tmp_path / "weights")
    words = ["train", "digits", "--limit", 60, "--model", "cas_vit_xs", "-r", 32, "--epochs", 1]
    weights = tmp_path / "weights/cas_vit_xs.safetensors"
    code, _, err = cli(*words, "--workers", 0, "--pretrained", weights, "--out", tmp_path / "run")
    assert code == 0, err
    record = json.loads((tmp_path / "run/training.json").read_text())["pretrained"]
    assert record["used"]
    assert record["matched"] == 520
    assert record["licence"] == "not stated (the official code is MIT)"
    card = json.loads((tmp_path / "run/checkpoints/model.json").read_text())["card"]
    assert card["weights_licence"] == record["licence"]
