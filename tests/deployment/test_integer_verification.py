from __future__ import annotations

import pytest
import torch

from pocketvit.core.errors import UnknownNameError, VerificationError
from pocketvit.deployment.integer_verification import IntegerVerification, verify_integer
from pocketvit.deployment.openvino import has_openvino


def test_simulation_and_file_agree_in_every_runtime(calibrated, small_images, integer_file) -> None:
    network = calibrated()
    batches = [(part, network(part).argmax(1)) for part in small_images.split(8)]
    found = verify_integer(network, integer_file.path, batches)
    assert [result.runtime for result in found] == ["onnxruntime", *["openvino"] * has_openvino()]
    for result in found:
        assert result.passed
        assert (result.n, result.agreement, result.accuracy_simulation) == (16, 1.0, 1.0)


def test_a_difference_is_an_error_with_runtime_and_share(calibrated, small_images, integer_file) -> None:
    network = calibrated()
    batch = [(small_images, network(small_images).argmax(1))]
    with torch.no_grad():
        bias = network.operator("head").bias
        assert bias is not None
        bias.copy_(-bias)  # no longer what the file has
    assert (network(small_images).argmax(1) != batch[0][1]).any()
    with pytest.raises(VerificationError, match=r"onnxruntime.*does not classify"):
        verify_integer(network, integer_file.path, batch, runtimes=["onnxruntime"])
    (told,) = verify_integer(network, integer_file.path, batch, runtimes=["onnxruntime"], strict=False)
    assert not told.passed
    assert told.accuracy_file == 1.0 > told.agreement == told.accuracy_simulation


def close_ones() -> torch.Tensor:
    """A thousand images with two classes near each other."""
    return torch.tensor([0.0, 1.0, 0.9]).repeat(1000, 1).double()


def moved(logits: torch.Tensor, share: float) -> torch.Tensor:
    """The first class of a share of images is another one, the one that was near."""
    found = logits.clone()
    found[: round(share * len(found)), 1] = 0.8
    return found


@pytest.mark.parametrize(
    ("by_rounding", "by_file", "passed"),
    [(0, 0.004, True), (0, 0.01, False), (0.01, 0.012, True), (0.01, 0.02, False)],
)
def test_a_file_need_not_agree_better_than_rounding_lets_it(by_rounding, by_file, passed) -> None:
    logits = close_ones()
    found = IntegerVerification.of(
        "onnxruntime",
        simulation=logits,
        rounding=moved(logits, by_rounding),
        file=moved(logits, by_file),
        truth=torch.full((1000,), 3),  # of no class, so that accuracy says nothing
    )
    assert found.passed == passed
    assert found.agreement == pytest.approx(1 - by_file)
    assert found.rounding_agreement == pytest.approx(1 - by_rounding)


def test_accuracy_that_chance_does_not_explain_is_an_error() -> None:
    logits = close_ones()
    file = moved(logits, 0.012)
    for truth, passed in [(logits.argmax(1), False), (torch.full((1000,), 3), True)]:
        found = IntegerVerification.of(
            "onnxruntime", simulation=logits, rounding=moved(logits, 0.01), file=file, truth=truth
        )
        assert found.passed == passed


def test_nothing_to_compare_is_an_error(calibrated, integer_file) -> None:
    with pytest.raises(VerificationError, match="no images"):
        verify_integer(calibrated(), integer_file.path, [])


def test_another_runtime_is_an_error(calibrated, integer_file) -> None:
    with pytest.raises(UnknownNameError, match="onnxruntime"):
        verify_integer(calibrated(), integer_file.path, [], runtimes=["onnxrumtime"])
