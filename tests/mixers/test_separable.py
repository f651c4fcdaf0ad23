import timm.models.mobilevit as timm_mobilevit
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.mixers import SeparableSelfAttention


def brute_force(mixer, x):
    """The paper's equation, token by token."""
    B, C, H, W = x.shape
    p = mixer.patch
    weight, bias = mixer.qkv_proj.weight[:, :, 0, 0], mixer.qkv_proj.bias
    w_q, w_k, w_v = weight[:1], weight[1 : 1 + C], weight[1 + C :]
    b_q, b_k, b_v = bias[:1], bias[1 : 1 + C], bias[1 + C :]
    out = torch.empty_like(x)
    for b in range(B):
        for row in range(p):
            for column in range(p):
                pixels = [(h, w) for h in range(row, H, p) for w in range(column, W, p)]
                tokens = [x[b, :, h, w] for h, w in pixels]
                exponentials = [torch.exp(w_q @ token + b_q) for token in tokens]
                context = torch.zeros(C, dtype=x.dtype)
                for token, exponential in zip(tokens, exponentials, strict=True):
                    context += exponential / sum(exponentials) * (w_k @ token + b_k)
                for (h, w), token in zip(pixels, tokens, strict=True):
                    value = torch.clamp(w_v @ token + b_v, min=0)
                    out[b, :, h, w] = (
                        mixer.out_proj.weight[:, :, 0, 0] @ (value * context) + mixer.out_proj.bias
                    )
    return out


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 2),
    dim=st.integers(1, 6),
    H=st.integers(1, 7),
    W=st.integers(1, 7),
    patch=st.integers(1, 3),
    collapse=st.booleans(),
)
def test_equals_brute_force_at_any_size(batch, dim, H, W, patch, collapse):
    torch.manual_seed(0)
    mixer = SeparableSelfAttention(dim=dim, patch=patch).double()
    mixer.collapse_key = collapse
    x = torch.randn(batch, dim, H, W).double()
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), brute_force(mixer, x), rtol=1e-10, atol=1e-12)


def test_collapsed_key_has_the_gradients_of_the_plain_equation():
    torch.manual_seed(0)
    mixer = SeparableSelfAttention(dim=8, patch=2).double()
    x = torch.randn(2, 8, 4, 6, dtype=torch.float64, requires_grad=True)
    leaves = (x, *mixer.parameters())
    collapsed = torch.autograd.grad(mixer(x).square().sum(), leaves)
    mixer.collapse_key = False
    plain = torch.autograd.grad(mixer(x).square().sum(), leaves)
    for ours, theirs in zip(collapsed, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_are_finite_where_a_position_in_the_patch_has_no_pixel():
    mixer = SeparableSelfAttention(dim=4, patch=2)
    mixer(torch.randn(1, 4, 1, 1)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in mixer.parameters())


def test_half_precision_gives_no_weight_to_missing_pixels():
    torch.manual_seed(0)
    mixer = SeparableSelfAttention(dim=8, patch=2)
    x = torch.randn(1, 8, 5, 3)
    expected = mixer(x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mixer(x)
    torch.testing.assert_close(mixed.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(mixer.bfloat16()(x.bfloat16()).float(), expected, rtol=0.05, atol=0.05)


def test_equals_timm_on_token_sets():
    torch.manual_seed(0)
    reference = timm_mobilevit.LinearSelfAttention(16).double()
    mixer = SeparableSelfAttention(dim=16, patch=2).double()
    mixer.load_state_dict(reference.state_dict(), strict=True)
    tokens = torch.randn(2, 16, 4, 9).double()
    torch.testing.assert_close(mixer.forward_tokens(tokens), reference(tokens), rtol=1e-10, atol=1e-12)


def test_large_scores_do_not_overflow():
    mixer = SeparableSelfAttention(dim=4)
    with torch.no_grad():
        mixer.qkv_proj.weight[0] = 1e4
    assert torch.isfinite(mixer(torch.randn(1, 4, 3, 3))).all()
