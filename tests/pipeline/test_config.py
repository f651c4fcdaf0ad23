from pathlib import Path

import pytest

from pocketvit.pipeline.config import DEFAULT_MACS, BuildConfig, slug


@pytest.mark.parametrize(
    ("data", "name"),
    [("digits", "digits"), ("a/My Photos/", "my-photos"), ("torchvision:CIFAR10", "torchvision-cifar10")],
)
def test_run_directories_are_named_after_the_data(data, name):
    assert slug(data) == name
    assert BuildConfig(data=data).run_path == Path("runs") / name


def test_there_is_always_a_budget_unless_the_model_is_named():
    assert BuildConfig(data="digits").budget.macs == DEFAULT_MACS
    assert BuildConfig(data="digits", model="mobilevit_s").budget.macs is None
    assert BuildConfig(data="digits", params=10**6).budget.macs is None
    assert BuildConfig(data="digits", macs=10**6, model="mobilevit_s").budget.macs == 10**6


def test_paths_are_kept_whole_so_that_a_run_can_be_resumed_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert BuildConfig(data="photos/").data == str(tmp_path / "photos")
    assert BuildConfig(data="digits").data == "digits"
    assert BuildConfig(data="missing").data == "missing"


@pytest.mark.parametrize("wrong", [{"resolution": 100}, {"macs": 0}, {"val_fraction": 1.0}, {"nonsense": 1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError):
        BuildConfig(data="digits", **wrong)
