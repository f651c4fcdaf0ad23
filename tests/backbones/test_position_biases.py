import copy
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.efficientformer import Attention
from timm.models.efficientformer_v2 import Attention2d, Attention2dDownsample
from torch import nn

from pocketvit.backbones.position_biases import BiasedAttention, position_biases


def reference(table, size, stride):
    """Pair by pair, in numpy."""
    heads, *trained = table.shape
    (H, W), (h, w) = size, trained
    queries = [(i, j) for i in range(0, H, stride) for j in range(0, W, stride)]
    keys = [(row, column) for row in range(H) for column in range(W)]
    out = np.zeros((heads, len(queries), len(keys)))
    for head in range(heads):
        for q, (i, j) in enumerate(queries):
            for k, (row, column) in enumerate(keys):
                columns = [np.interp(abs(j - column) * w / W, np.arange(w), line) for line in table[head]]
                out[head, q, k] = np.interp(abs(i - row) * h / H, np.arange(h), columns)
    return out


@settings(max_examples=12)
@given(
    trained=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    stride=st.sampled_from([1, 2]),
)
def test_is_the_linear_interpolation_of_distances(trained, size, stride):
    table = torch.randn(2, *trained, dtype=torch.float64)
    found = position_biases(table, size, query_stride=stride)
    assert found.shape == (2, ceil(size[0] / stride) * ceil(size[1] / stride), size[0] * size[1])
    np.testing.assert_allclose(found.numpy(), reference(table.numpy(), size, stride), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("theirs", "size", "stride"),
    [
        (Attention(32, key_dim=4, num_heads=3, resolution=(7, 5)), (7, 5), 1),
        (Attention2d(32, key_dim=4, num_heads=3, resolution=(6, 7)), (6, 7), 1),
        (Attention2d(32, key_dim=4, num_heads=3, resolution=(14, 14), stride=2), (7, 7), 1),
        (Attention2dDownsample(32, key_dim=4, num_heads=3, resolution=(14, 14)), (14, 14), 2),
        (Attention2dDownsample(32, key_dim=4, num_heads=3, resolution=(13, 8)), (13, 8), 2),
    ],
)
def test_is_exactly_timms_at_the_trained_size(theirs, size, stride):
    nn.init.normal_(theirs.attention_biases)
    ours = BiasedAttention(theirs.attention_biases, size, query_stride=stride)
    assert torch.equal(ours.biases(size), theirs.get_attention_biases(torch.device("cpu")))
    half = copy.deepcopy(ours).bfloat16()
    assert torch.equal(half.biases(size), ours.biases(size).bfloat16())


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (20, 13)])
def test_never_leaves_the_range_of_what_was_learned(size):
    table = torch.randn(3, 7, 7)
    found = position_biases(table, size)
    for head, learned in zip(found, table, strict=True):
        assert head.min() >= learned.min() - 1e-6
        assert head.max() <= learned.max() + 1e-6
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert torch.equal(diagonal, table[:, :1, 0].expand_as(diagonal))  # a position and itself


def test_gradients_reach_the_table_at_any_size():
    table = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: position_biases(t, (5, 3)), table)


@pytest.fixture
def attention():
    return BiasedAttention(nn.Parameter(torch.randn(2, 12)), (3, 4)).eval()


def test_the_last_size_is_kept_without_gradients(attention):
    with torch.no_grad():
        first = attention.biases((5, 5))
        assert attention.biases((5, 5)) is first
        assert attention.biases((5, 4)).shape == (2, 20, 20)
        assert torch.equal(attention.biases((5, 5)), first)
    assert attention.biases((5, 5)).requires_grad
    assert attention.train().biases((5, 5)).requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda module, table: module.load_state_dict({"attention_biases": table}),
        lambda module, table: module.attention_biases.copy_(table),
        lambda module, table: setattr(module.attention_biases, "data", table) or module.eval(),
        lambda module, table: setattr(module, "attention_biases", nn.Parameter(table)) or module.eval(),
        lambda module, table: module.double().load_state_dict({"attention_biases": table}),
    ],
)
def test_what_is_kept_follows_the_table(attention, change):
    table = torch.randn(2, 12)
    with torch.no_grad():
        old = attention.biases((5, 5))
        change(attention, table)
        new = attention.biases((5, 5))
        assert not torch.allclose(old.to(new.dtype), new)
        torch.testing.assert_close(new.float(), position_biases(table.unflatten(1, (3, 4)), (5, 5)))


def test_rounding_is_not_undone_by_what_was_kept(attention):
    with torch.no_grad():
        exact = attention.biases((3, 4))
        assert not torch.equal(attention.bfloat16().float().biases((3, 4)), exact)


def test_inference_mode():
    with torch.inference_mode():
        attention = BiasedAttention(nn.Parameter(torch.randn(2, 12)), (3, 4)).eval()
        assert torch.equal(attention.biases((5, 5)), attention.biases((5, 5)))
