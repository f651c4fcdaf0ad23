import pytest
import torch

from pocketvit.core.errors import ConfigError
from pocketvit.training.precision import MixedPrecision, resolve_precision

CPU = torch.device("cpu")


def test_auto_is_float32_on_the_cpu():
    assert resolve_precision("auto", CPU) == "float32"


def test_auto_is_bfloat16_on_a_gpu_that_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision("auto", torch.device("cuda")) == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_precision("auto", torch.device("cuda")) == "float32"


def test_what_is_asked_for_is_taken():
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_products_are_computed_in_it(name, dtype):
    layer = torch.nn.Linear(3, 3)
    with MixedPrecision(name=name, device=CPU).autocast():
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_float16_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="needs CUDA"):
        MixedPrecision(name="float16", device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float16_scales_the_loss():
    assert MixedPrecision(name="float16", device=torch.device("cuda")).scaler.get_scale() > 1
