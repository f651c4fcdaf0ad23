"""What a person meets who brings a size, a file or a name that does not fit: one message, one exit code."""

import pytest
import torch
from safetensors.torch import save_file

from pocketvit.backbones import create_model
from pocketvit.core.errors import CheckpointError, ConfigError

SMALL = ["--limit", 60, "--model", "mobilevit_xxs", "-r", 32, "--epochs", 1, "--workers", 0]


@pytest.fixture(scope="module")
def state():
    return create_model("mobilevit_xxs").state_dict()


@pytest.fixture
def train(cli, tmp_path):
    """Train from a weights file that does not fit; nothing of a network may be left."""

    def call(weights):
        run = tmp_path / "run"
        code, out, err = cli("train", "digits", *SMALL, "--out", run, "--pretrained", weights)
        assert "Traceback" not in out + err
        assert not list(run.glob("checkpoints/*"))
        return code, err

    return call


@pytest.fixture
def import_(cli, tmp_path):
    def call(file, *options):
        code, out, err = cli("import", file, "--out", tmp_path / "weights", *options)
        assert "Traceback" not in out + err
        assert not (tmp_path / "weights").exists()
        return code, err

    return call


def saved(path, state):
    save_file(state, path)
    return path


@pytest.mark.parametrize("size", [1, 16, 31])
@pytest.mark.parametrize("words", [["mobilevit_xxs"], ["--rewrites", "cas_vit_xs"]])
def test_a_size_below_the_minimum_to_count_at(cli, size, words):
    code, _, err = cli("models", *words, "--resolution", size)
    assert code == ConfigError.exit_code
    assert "greater than or equal to 32" in err


@pytest.mark.parametrize("size", [0, 16, 100])
def test_a_size_that_cannot_be_trained_at(cli, tmp_path, size):
    code, _, err = cli("train", "digits", "--resolution", size, "--out", tmp_path / "run")
    assert code == ConfigError.exit_code
    assert f"resolution: Input should be a multiple of 32 (got {size})" in err or "equal to 32" in err
    assert not (tmp_path / "run").exists()


def test_a_network_of_one_size_at_another(cli, tmp_path):
    words = ["--model", "deit_tiny_patch16_224", "-r", 64, "--limit", 60, "--out", tmp_path / "run"]
    code, _, err = cli("train", "digits", *words)
    assert code == ConfigError.exit_code
    assert "takes images of 224 px only, not 64" in err


@pytest.mark.parametrize("chans", [1, 4])
def test_channels_that_do_not_match(train, tmp_path, chans):
    other = create_model("mobilevit_xxs", in_chans=chans).state_dict()
    code, err = train(saved(tmp_path / "other.safetensors", other))
    assert code == CheckpointError.exit_code
    assert f"is for {chans}-channel images, the network for 3-channel images: stem.conv.weight is" in err
    assert f"in_chans={chans}" in err


def test_a_family_that_was_not_asked_for(import_, train, state, tmp_path):
    file = saved(tmp_path / "mobilevit.safetensors", state)
    code, err = import_(file, "--model", "swiftformer_xs")
    assert code == CheckpointError.exit_code
    assert (
        "recognised as MobileViT (huggingface/pytorch-image-models), but it does not fit swiftformer" in err
    )
    assert "0 of 316 tensors match" in err
    assert "Leave out --model" in err
    code, err = train(saved(tmp_path / "cas.safetensors", create_model("cas_vit_xs").state_dict()))
    assert code == CheckpointError.exit_code
    assert "cas.safetensors is of another architecture: 0 of 311 tensors match" in err
    assert "and 308 more" in err
    assert "pocketvit import FILE" in err


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_truncated_file(import_, train, state, tmp_path, kind):
    file = tmp_path / f"cut.{kind}"
    if kind == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    file.write_bytes(file.read_bytes()[:100_000])
    for code, err in (import_(file), train(file)):
        assert code == CheckpointError.exit_code
        assert f"cut.{kind} cannot be read as weights: it is truncated" in err
        assert "Download it again" in err


def test_a_truncated_exported_file(cli, finished_run, tmp_path):
    (tmp_path / "cut.onnx").write_bytes(finished_run.onnx.read_bytes()[:100_000])
    code, _, err = cli("predict", tmp_path / "cut.onnx", tmp_path)
    assert code == CheckpointError.exit_code
    assert "cut.onnx cannot be opened as an ONNX model" in err


def test_a_missing_tensor_is_named(import_, train, state, tmp_path):
    gone = "stages.0.0.conv1_1x1.bn.running_mean"
    file = saved(tmp_path / "gap.safetensors", {key: value for key, value in state.items() if key != gone})
    for code, err in (import_(file), train(file)):
        assert code == CheckpointError.exit_code
        assert f"tensors match; missing: {gone}." in err


def test_names_that_are_not_the_networks_are_shown_beside_the_nearest(import_, train, state, tmp_path):
    renamed = {key.replace("final_conv.bn", "final_conv.norm"): value for key, value in state.items()}
    file = saved(tmp_path / "names.safetensors", renamed | {"queue": torch.zeros(2)})
    for code, err in (import_(file), train(file)):
        assert code == CheckpointError.exit_code
        assert "missing: final_conv.bn.weight (nearest: final_conv.norm.weight)" in err
        assert "and 2 more; unexpected: final_conv.norm." in err
        assert "(nearest: final_conv.bn.num_batches_tracked)" in err
        assert "and 3 more" in err


def test_a_file_of_no_known_code_base_says_which_names_it_lacks(import_, state, tmp_path):
    state = dict(state)
    state["stem.conv.wieght"] = state.pop("stem.conv.weight")
    code, err = import_(saved(tmp_path / "typo.safetensors", state))
    assert code == CheckpointError.exit_code
    assert "nearest is MobileViT" in err
    assert "names that this file lacks: stem.conv.weight (nearest: stem.conv.wieght)." in err


def test_after_the_mistake_the_same_run_directory_can_be_used(train, cli, state, tmp_path):
    assert train(tmp_path / "none.pth")[0] == CheckpointError.exit_code
    file = saved(tmp_path / "right.safetensors", state)
    code, _, err = cli("train", "digits", *SMALL, "--out", tmp_path / "run", "--pretrained", file)
    assert code == 0, err
