"""Leads over `pocket`, and their standard errors against a brute-force count of pairs."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

CLASSES = 4


def cell(
    method: str, guesses: np.ndarray, labels: np.ndarray, real: np.ndarray, **more: Any
) -> dict[str, Any]:
    hits = guesses == labels
    return {
        "model": "a",
        "method": method,
        "label": "W8A8",
        "scope": "partial",
        "drop": float((real == labels).mean() - hits.mean()),
        "agreement": float((guesses == real).mean()),
        "right": import_module("quantization_leads").packed(hits),
        **more,
    }


def guesses(rng: np.random.Generator, real: np.ndarray, share: float) -> np.ndarray:
    return np.where(rng.random(len(real)) < share, rng.integers(CLASSES, size=len(real)), real)


@given(n=st.integers(1, 300), share=st.floats(0, 1), draws=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_standard_error_is_that_of_pairs(n: int, share: float, draws: int, seed: int) -> None:
    script, rng = import_module("quantization_leads"), np.random.default_rng(seed)
    labels, real = rng.integers(CLASSES, size=(2, n))
    tried = [[guesses(rng, real, share) for _ in range(draws)], [guesses(rng, real, share)]]
    ours, others = ([cell("m", g, labels, real) for g in mine] for mine in tried)
    pairs = [
        float(tried[1][0][i] == labels[i]) - sum(float(g[i] == labels[i]) for g in tried[0]) / draws
        for i in range(n)
    ]
    mean = sum(pairs) / n
    found = script.lead(ours, others, n)
    assert found.exact
    assert found.points == pytest.approx(100 * mean, abs=1e-9)
    assert found.error == pytest.approx(100 * math.sqrt(sum((p - mean) ** 2 for p in pairs)) / n, abs=1e-9)
    for row in [*ours, *others]:
        del row["right"]
    bound = script.lead(ours, others, n)
    assert not bound.exact
    assert bound.points == found.points
    assert bound.error >= found.error - 1e-9


def test_the_furthest_is_so_in_standard_errors_and_files_of_pocket_are_not_compared() -> None:
    script, rng = import_module("quantization_leads"), np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=1000)
    real = guesses(rng, labels, 0.5)
    wrong = np.flatnonzero(real != labels)
    few, many = real.copy(), guesses(rng, real, 0.3)
    few[wrong[:20]] = labels[wrong[:20]]
    many[wrong[:25]] = labels[wrong[:25]]
    cells = [
        cell("pocket", real, labels, real),
        cell("omse", few, labels, real),
        cell("hyq", many, labels, real),
    ]
    cells.append(cell("pocket_openvino", labels, labels, real))
    cells.append(cell("minmax", labels, labels, real, label="W6A6"))
    (there,) = script.rivals({"networks": {"a": {"n": 1000}}, "cells": cells})
    found = script.furthest(there)
    assert [rival.method for rival in there] == ["hyq", "omse"]
    assert (found.method, found.place) == ("omse", ("a", "W8A8", "partial"))
    assert found.lead.points == pytest.approx(2.0)


def test_a_second_look_is_at_what_is_ahead_on_other_images_of_the_same_network() -> None:
    script, rng = import_module("quantization_leads"), np.random.default_rng(0)

    def scored(n: int, drops: dict[str, int], weights: str = "same") -> dict[str, Any]:
        labels = rng.integers(CLASSES, size=n)
        tried = {name: np.where(np.arange(n) < drop, labels + 1, labels) for name, drop in drops.items()}
        cells = [cell(name, tried[name], labels, labels) for name in drops]
        return {"networks": {"a": {"n": n, "weights": weights}}, "cells": cells}

    found = scored(100, {"pocket": 3, "omse": 2, "hyq": 3, "minmax": 4})
    assert [rival.method for rival in script.ahead(found)] == ["omse"], "not what loses as much"
    (look,) = script.second_look(found, scored(400, {"pocket": 4, "omse": 8, "minmax": 0}))
    assert (look.first.method, look.first.lead.points, look.fresh.points) == pytest.approx(("omse", 1, -1))
    assert look.fresh.error == pytest.approx(100 * math.sqrt(0.01 * 0.99 / 400))
    assert not list(script.second_look(found, scored(400, {"pocket": 4, "minmax": 0}))), "not looked at"
    assert not list(script.second_look(found, scored(400, {"pocket": 4, "omse": 8}, "others")))


def test_where_nothing_differs_there_is_no_lead() -> None:
    labels = np.zeros(8, dtype=int)
    same = [cell("pocket", labels, labels, labels)]
    assert import_module("quantization_leads").lead(same, same, 8).ratio == 0
