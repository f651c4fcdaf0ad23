import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.mixers import (
    ConvolutionalAdditiveMixer,
    PatchwiseMixer,
    SeparableSelfAttention,
    SoftmaxAttention,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), patch=st.integers(1, 3))
def test_separable_attention_cut_into_patches_is_the_papers_own(height, width, patch):
    torch.manual_seed(0)
    own = SeparableSelfAttention(dim=6, patch=patch).double()
    plain = SeparableSelfAttention(dim=6).double()
    plain.load_state_dict(own.state_dict(), strict=True)
    x = torch.randn(2, 6, height, width).double()
    torch.testing.assert_close(PatchwiseMixer(plain, patch=patch)(x), own(x), **CLOSE)


def test_softmax_attention_cut_into_patches_is_the_papers_own():
    torch.manual_seed(0)
    own, plain = SoftmaxAttention(dim=8, patch=2).double(), SoftmaxAttention(dim=8).double()
    plain.load_state_dict(own.state_dict(), strict=True)
    x = torch.randn(2, 8, 4, 6).double()
    torch.testing.assert_close(PatchwiseMixer(plain, patch=2)(x), own(x), **CLOSE)


@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 5), width=st.integers(1, 5), patch=st.integers(1, 3))
def test_every_set_is_a_map_of_its_own(height, width, patch):
    torch.manual_seed(0)
    mixer = ConvolutionalAdditiveMixer(dim=3).double().eval()
    x = torch.randn(1, 3, height, width).double()
    expected = torch.empty_like(x)
    for row in range(min(patch, height)):
        for column in range(min(patch, width)):
            expected[:, :, row::patch, column::patch] = mixer(x[:, :, row::patch, column::patch])
    torch.testing.assert_close(PatchwiseMixer(mixer, patch=patch)(x), expected, **CLOSE)


def test_gradients_reach_the_mixer_and_every_pixel_of_a_cut_map():
    mixer = PatchwiseMixer(SeparableSelfAttention(dim=6), patch=2)
    x = torch.randn(1, 6, 5, 3, requires_grad=True)
    mixer(x).square().sum().backward()
    assert x.grad.abs().amin() > 0
    assert all(parameter.grad is not None for parameter in mixer.parameters())
