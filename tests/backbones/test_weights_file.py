import argparse
import collections
import functools
import pathlib

import pytest
import torch
from safetensors.torch import save_file
from torch.serialization import get_safe_globals

from pocketvit.backbones.weights_file import read_weights_file
from pocketvit.core.errors import CheckpointError

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(5)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def same(tensors, expected=STATE):
    return list(tensors) == list(expected) and all(torch.equal(tensors[k], expected[k]) for k in expected)


def test_plain_state_dicts_in_both_formats(tmp_path, path):
    torch.save(collections.OrderedDict(STATE), path)
    safe = tmp_path / "weights.safetensors"
    save_file(STATE, safe)
    for file in (path, safe):
        read = read_weights_file(file)
        assert list(read.sets) == [""]
        assert set(read.sets[""]) == set(STATE)
        assert read.architecture is None


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("zip_file", [True, False])
def test_options_of_the_training_script_are_let_through(path, protocol, zip_file):
    options = argparse.Namespace(lr=1e-3, betas=(0.9, 0.999), nested=argparse.Namespace(name="x"))
    content = {"model": STATE, "args": options, "epoch": 3}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zip_file)
    assert same(read_weights_file(path).sets["model"])


def test_reading_leaves_no_class_allowed(path):
    torch.save({"model": STATE, "args": argparse.Namespace()}, path)
    before = set(get_safe_globals())  # torch keeps them in a set: their order means nothing
    read_weights_file(path)
    assert set(get_safe_globals()) == before


@pytest.mark.parametrize(
    ("inside", "name"),
    [
        (pathlib.PurePosixPath("x"), "PurePosixPath"),
        (functools.partial(int, "x"), r"\(functools\.partial\)"),
        (print, r"\(print\)"),
        (torch.nn.Linear(1, 1), "Linear"),
    ],
)
def test_nothing_else_is_let_through(path, inside, name):
    torch.save({"model": STATE, "args": argparse.Namespace(inside=inside)}, path)
    with pytest.raises(CheckpointError, match=name):
        read_weights_file(path)


def test_several_sets_and_their_order(path):
    other = {"conv.weight": torch.zeros(2, 3)}
    torch.save({"model": STATE, "model_ema": other, "optimizer": {"x": torch.ones(1)}, "arch": "net"}, path)
    read = read_weights_file(path)
    assert list(read.sets) == ["model_ema", "model"]
    assert read.architecture == "net"
    assert read.choose()[0] == "model_ema"
    wrapper, tensors = read.choose(("model",))
    assert wrapper == "model"
    assert same(tensors)
    assert read.choose(("state_dict",))[0] == "model_ema"


@pytest.mark.parametrize("wrapper", ["state_dict_ema", "model_ema", "model", "state_dict"])
def test_wrappers_and_prefixes_come_off(path, wrapper):
    torch.save({wrapper: {f"module.{key}": value for key, value in STATE.items()}}, path)
    assert same(read_weights_file(path).sets[wrapper])


def test_a_prefix_that_only_some_names_have_stays(path):
    state = {"module.conv.weight": torch.zeros(1), "head": torch.zeros(1)}
    torch.save(state, path)
    assert list(read_weights_file(path).sets[""]) == list(state)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_tensors_that_hold_no_ordinary_numbers_are_left_out(path):
    odd = {
        "sparse": torch.eye(2).to_sparse(),
        "no data": torch.zeros(2, device="meta"),
    }
    torch.save({**STATE, **odd}, path)
    assert same(read_weights_file(path).sets[""])


def test_an_architecture_that_is_no_name_is_ignored(path):
    torch.save({"model": STATE, "arch": 5}, path)
    assert read_weights_file(path).architecture is None
