from argparse import Namespace
from importlib import import_module
from xml.etree import ElementTree

import pytest
import torch

ARGS = Namespace(device="cpu", threads=1, dim=8)


@pytest.fixture
def mixers():
    return import_module("mixers")


def rows_of(mixers, name, exponent):
    """Rows that grow as a power of the tokens, with a constant cost that hides it at the small end."""
    values = [(side**2, 1.0 + 1e-3 * side ** (2 * exponent)) for side in (4, 8, 512, 1024)]
    return [{"mixer": name, "tokens": n, "p50_ms": value, "peak_memory_mb": 2 * value} for n, value in values]


@pytest.mark.parametrize("exponent", [1, 2])
def test_growth_is_that_of_the_large_end(mixers, exponent):
    rows = rows_of(mixers, "softmax", exponent)
    assert mixers.growth(rows) == pytest.approx({"p50_ms": exponent, "peak_memory_mb": exponent}, abs=0.01)
    skipped = {"mixer": "softmax", "tokens": 10**9, "skipped": "too large"}
    assert mixers.growth([*rows, skipped]) == mixers.growth(rows)


def test_memory_is_that_of_the_work_alone(mixers):
    held = torch.ones(10**7)  # before: not counted

    def work():
        return float(torch.ones(15 * 10**6).sum())

    memory, found = mixers.peak_bytes(torch.device("cpu"), work)
    assert found == 15e6
    # 60 MB and what the allocator rounds up to; the kernel counts resident pages in batches. Less than 32 MB
    # glibc may take from what other tests freed.
    assert 58e6 <= memory < 75e6
    assert held.sum() == 10**7


def test_a_cell_counts_passes_time_and_memory(mixers, monkeypatch):
    monkeypatch.setattr(mixers, "SECONDS", 0.01)
    for name in mixers.NAMES:
        row = mixers.measure(name, 16, ARGS)
        assert row["tokens"] == 256
        assert row["n"] >= mixers.AT_LEAST
        assert 0 < row["min_ms"] <= row["p50_ms"]


def test_stored_scores_that_do_not_fit_are_skipped_and_said(mixers):
    row = mixers.in_own_process(mixers.SCORES_STORED, 2048, ARGS)
    assert "needs about 844425 GB" in row["skipped"]
    assert mixers.scores_bytes("softmax", 2048, 8) == 0


def test_plot_has_labelled_axes_and_the_exponents_of_every_mixer(mixers):
    rows = [row for name in mixers.NAMES for row in rows_of(mixers, name, 2 if "softmax" in name else 1)] + [
        {"mixer": mixers.SCORES_STORED, "tokens": 10**9, "skipped": "too large"}
    ]
    svg = mixers.plot(
        {
            "protocol": {"dim": 8, "device": "cpu", "threads": 1},
            "rows": rows,
            "growth": {n: mixers.growth([row for row in rows if row["mixer"] == n]) for n in mixers.NAMES},
            "hardware": {"cpu": "A & B", "gpu": None},
            "versions": {"torch": "2.0"},
        }
    )
    texts = [
        "".join(text.itertext())
        for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    for label in ("tokens N (pixels of the feature map)", *(q.label for q in mixers.QUANTITIES)):
        assert any(label in text for text in texts)
    for name in mixers.NAMES:
        assert f"{name}: grows as N{'2.00' if 'softmax' in name else '1.00'}" in texts
    assert any("A & B, 1 thread, PyTorch 2.0" in text for text in texts)


def test_networks_differ_by_their_mixer_alone(mixers):
    own, other = (mixers.network("swiftformer_xs", mixer) for mixer in ("additive", "separable"))
    assert own["size"] == 224
    widths = (48, 56, 112, 220)  # one mixer a stage
    additive = sum(4 * c * (c + 1) + c for c in widths)
    separable = sum((c + 1) * (2 * c + 1) + c * (c + 1) for c in widths)
    assert own["params"] - other["params"] == additive - separable
