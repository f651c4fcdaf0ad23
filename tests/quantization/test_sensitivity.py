from __future__ import annotations

import pytest
import torch

from pocketvit.quantization.calibration import samples
from pocketvit.quantization.sensitivity import logit_error, visits


def test_visits_show_what_the_hooks_see(tiny, calibration) -> None:
    expected = {o.name: sample for o, sample in samples(tiny, calibration)}
    names: list[str] = []
    for visit in visits(tiny, calibration.images):
        sample = expected[visit.operator.name]
        assert torch.equal(visit.output, sample.output)
        assert all(torch.equal(a, b) for a, b in zip(visit.inputs, sample.inputs, strict=True))
        names.append(visit.operator.name)
    assert names == list(tiny.operators)


def test_another_output_gives_the_logits_of_the_network_with_it(tiny, calibration) -> None:
    with torch.no_grad():
        wanted = tiny(calibration.images)
    for visit in visits(tiny, calibration.images):
        assert torch.equal(visit.logits_with(visit.output), wanted)
        changed = visit.output * 1.5 + 0.25
        hook = visit.operator.register_forward_hook(lambda *_, value=changed: value)
        with torch.no_grad():
            by_hook = tiny(calibration.images)
        hook.remove()
        assert torch.equal(visit.logits_with(changed), by_hook), visit.operator.name
        assert torch.equal(visit.logits_with(visit.output), wanted), "a trial must leave no trace"


def test_logit_error_by_hand() -> None:
    wanted = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = logit_error(torch.tensor([[3.0, 3.5], [0.0, 4.0]]), wanted)
    assert found.error == pytest.approx(3.5**2 / 25)
    assert found.changed == 0.5
    assert logit_error(torch.zeros(1, 2), torch.zeros(1, 2)).error == 0
