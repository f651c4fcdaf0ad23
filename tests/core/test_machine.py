import pytest
import torch

from pocketvit.core.errors import ConfigError
from pocketvit.core.machine import choose_device, hardware, physical_cores, usable_cores, versions


def test_hardware_and_versions_are_filled_in():
    assert hardware()["cpu"]
    assert hardware()["memory_gib"] > 0
    assert versions()["torch"] == torch.__version__.split("+")[0] or versions()["torch"] == torch.__version__
    assert 1 <= physical_cores() <= usable_cores()


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no usable 'cuda'"):
        choose_device("cuda")
    assert choose_device("cpu") == torch.device("cpu")
