import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swiftformer import EfficientAdditiveAttention as TimmAttention

from pocketvit.mixers import EfficientAdditiveAttention


def brute_force(mixer, x):
    """The equation of the paper and the official code, with the scale the module leaves out."""
    B, C, H, W = x.shape
    out = torch.empty_like(x)
    for b in range(B):
        pixels = [(h, w) for h in range(H) for w in range(W)]
        queries, keys = [], []
        for h, w in pixels:
            query = mixer.to_query.weight @ x[b, :, h, w] + mixer.to_query.bias
            key = mixer.to_key.weight @ x[b, :, h, w] + mixer.to_key.bias
            queries.append(query / query.norm())
            keys.append(key / key.norm())
        scores = torch.stack([query @ mixer.w_g[:, 0] * C**-0.5 for query in queries])
        scores = scores / scores.norm()
        context = sum(score * query for score, query in zip(scores, queries, strict=True))
        for (h, w), query, key in zip(pixels, queries, keys, strict=True):
            mixed = mixer.proj.weight @ (context * key) + mixer.proj.bias + query
            out[b, :, h, w] = mixer.final.weight @ mixed + mixer.final.bias
    return out


@settings(max_examples=15, deadline=None)
@given(batch=st.integers(1, 2), dim=st.integers(1, 8), height=st.integers(1, 5), width=st.integers(1, 5))
def test_equals_brute_force(batch, dim, height, width):
    torch.manual_seed(0)
    mixer = EfficientAdditiveAttention(dim=dim).double()
    x = torch.randn(batch, dim, height, width).double()
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), brute_force(mixer, x), rtol=1e-9, atol=1e-11)


def test_equals_timm_with_gradients_in_either_memory_format():
    torch.manual_seed(0)
    reference = TimmAttention(12, 12).double()
    mixer = EfficientAdditiveAttention(dim=12).double()
    mixer.load_state_dict(reference.state_dict(), strict=True)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 12, 5, 3).double().contiguous(memory_format=memory_format).requires_grad_()
        ours, theirs = mixer(x), reference(x)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
        gradients = torch.autograd.grad(ours.square().sum(), (x, *mixer.parameters()))
        expected = torch.autograd.grad(theirs.square().sum(), (x, *reference.parameters()))
        names = ["x", *dict(mixer.named_parameters())]
        named = dict(zip(["x", *dict(reference.named_parameters())], expected, strict=True))
        for name, gradient in zip(names, gradients, strict=True):
            torch.testing.assert_close(gradient, named[name], rtol=1e-8, atol=1e-10)


def test_an_all_zero_query_gives_finite_values():
    mixer = EfficientAdditiveAttention(dim=4)
    torch.nn.init.zeros_(mixer.to_query.weight)
    torch.nn.init.zeros_(mixer.to_query.bias)
    assert torch.isfinite(mixer(torch.randn(1, 4, 2, 2))).all()
