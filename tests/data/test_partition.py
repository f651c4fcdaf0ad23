from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pocketvit.core.errors import DataError
from pocketvit.data.partition import balanced_sample, stratified_sample, stratified_split

labels_of = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def ids(labels):
    return [f"image {i}" for i in range(len(labels))]


@settings(max_examples=60, deadline=None)
@given(labels=labels_of, fraction=st.floats(0.05, 0.95), seed=st.integers(0, 5))
def test_split_is_a_partition_and_stratified(labels, fraction, seed):
    train, val = stratified_split(labels, ids(labels), val_fraction=fraction, seed=seed)
    assert sorted(train + val) == list(range(len(labels)))
    assert train == sorted(train)
    assert val == sorted(val)
    in_val = Counter(labels[i] for i in val)
    for label, n in Counter(labels).items():
        expected = 0 if n == 1 else min(max(round(n * fraction), 1), n - 1)
        assert in_val[label] == expected


def test_split_depends_on_the_seed_and_on_nothing_else():
    labels = [i % 3 for i in range(90)]
    first = stratified_split(labels, ids(labels), val_fraction=0.2, seed=0)
    assert first == stratified_split(labels, ids(labels), val_fraction=0.2, seed=0)
    assert first != stratified_split(labels, ids(labels), val_fraction=0.2, seed=1)
    assert first[1] == [5, 9, 13, 25, 27, 35, 42, 44, 46, 48, 68, 69, 70, 74, 76, 79, 86, 87]


def test_more_images_move_few_of_the_others():
    few, many = [0] * 200, [0] * 220
    _, val_few = stratified_split(few, ids(few), val_fraction=0.2, seed=0)
    _, val_many = stratified_split(many, ids(many), val_fraction=0.2, seed=0)
    assert len(set(val_few) & set(val_many)) >= 36  # of 40


@settings(max_examples=60, deadline=None)
@given(copies=st.lists(st.integers(0, 12), min_size=2, max_size=40))
def test_copies_stay_together_when_there_is_anything_else(copies):
    names = [str(copy) for copy in copies]
    train, val = stratified_split([0] * len(names), names, val_fraction=0.3, seed=0)
    assert train
    assert val
    if len(set(names)) > 1:
        assert not {names[i] for i in train} & {names[i] for i in val}


@settings(max_examples=80, deadline=None)
@given(labels=labels_of, n=st.integers(1, 70), seed=st.integers(0, 3))
@example(labels=[0] * 6 + [1, 2, 3], n=4, seed=0)  # all classes small but one
def test_sample_has_n_images_of_all_classes_in_proportion(labels, n, seed):
    present = Counter(labels)
    if n < len(present) and n < len(labels):
        with pytest.raises(DataError, match="classes"):
            stratified_sample(labels, ids(labels), n=n, seed=seed)
        return
    chosen = stratified_sample(labels, ids(labels), n=n, seed=seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(n, len(labels))
    found = Counter(labels[i] for i in chosen)
    for label, count in present.items():
        share = n * count / len(labels)
        assert 1 <= found[label] <= count
        assert found[label] <= max(share + 1, 1)


def test_sample_depends_on_the_seed():
    labels = [0, 1] * 50
    assert stratified_sample(labels, ids(labels), n=20, seed=0) == stratified_sample(
        labels, ids(labels), n=20, seed=0
    )
    assert stratified_sample(labels, ids(labels), n=20, seed=0) != stratified_sample(
        labels, ids(labels), n=20, seed=1
    )


@settings(max_examples=60, deadline=None)
@given(labels=labels_of, n=st.integers(0, 70), seed=st.integers(0, 5))
def test_balanced_sample_takes_of_each_class_in_turn(labels, n, seed):
    chosen = balanced_sample(labels, ids(labels), n=n, seed=seed)
    assert len(chosen) == len(set(chosen)) == min(n, len(labels))
    there, taken = Counter(labels), Counter(labels[i] for i in chosen)
    most = max(taken.values(), default=0)
    assert all(taken[label] >= min(there[label], most - 1) for label in there)
    assert chosen[: n // 2] == balanced_sample(labels, ids(labels), n=n // 2, seed=seed)


def test_balanced_sample_depends_on_the_seed():
    labels = [i // 100 for i in range(1000)]
    draws = [balanced_sample(labels, ids(labels), n=4, seed=seed) for seed in range(3)]
    assert len({frozenset(labels[i] for i in draw) for draw in draws}) > 1, "the classes too are drawn"
    assert draws[0] == balanced_sample(labels, ids(labels), n=4, seed=0)
    few = balanced_sample([0] * 50 + [1, 2], ids(range(52)), n=10, seed=0)
    assert {50, 51} <= set(few), "rare classes are not left out"
