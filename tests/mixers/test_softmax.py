import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention

from pocketvit.mixers import SoftmaxAttention


def brute_force(mixer, x):
    """The paper's equation, one query and one head at a time."""
    B, C, H, W = x.shape
    p, heads = mixer.patch, mixer.heads
    d = C // heads
    out = torch.empty_like(x)
    for b in range(B):
        for row in range(p):
            for column in range(p):
                pixels = [(h, w) for h in range(row, H, p) for w in range(column, W, p)]
                qkv = [mixer.qkv.weight @ x[b, :, h, w] + mixer.qkv.bias for h, w in pixels]
                for index, (h, w) in enumerate(pixels):
                    mixed = []
                    for head in range(heads):
                        at = slice(head * d, (head + 1) * d)
                        query = qkv[index][:C][at]
                        weights = [torch.exp(query @ token[C : 2 * C][at] / d**0.5) for token in qkv]
                        values = [token[2 * C :][at] for token in qkv]
                        mixed.append(sum(a * v for a, v in zip(weights, values, strict=True)) / sum(weights))
                    out[b, :, h, w] = mixer.proj.weight @ torch.cat(mixed) + mixer.proj.bias
    return out


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    width=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    patch=st.integers(1, 3),
)
def test_equals_brute_force(batch, heads, width, rows, columns, patch):
    torch.manual_seed(0)
    mixer = SoftmaxAttention(dim=heads * width, heads=heads, patch=patch).double()
    x = torch.randn(batch, heads * width, rows * patch, columns * patch).double()
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), brute_force(mixer, x), rtol=1e-10, atol=1e-12)


def test_equals_timm_on_token_sets():
    torch.manual_seed(0)
    reference = Attention(24, num_heads=4, qkv_bias=True).double()
    mixer = SoftmaxAttention(dim=24, heads=4).double()
    mixer.load_state_dict(reference.state_dict(), strict=True)
    tokens = torch.randn(3, 10, 24).double()
    torch.testing.assert_close(mixer.forward_tokens(tokens), reference(tokens), rtol=1e-10, atol=1e-12)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="3 heads do not divide 8 channels"):
        SoftmaxAttention(dim=8, heads=3)
