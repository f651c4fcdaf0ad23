import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.mixers.patches import (
    fold,
    fold_channels,
    membership,
    unfold,
    unfold_channels,
    whole_patches,
)


@given(patch=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 4))
def test_unfold_puts_each_pixel_where_the_paper_puts_it(patch, rows, columns):
    H, W = rows * patch, columns * patch
    x = torch.arange(2 * 3 * H * W).reshape(2, 3, H, W)
    tokens, channels_first = unfold(x, patch=patch), unfold_channels(x, patch=patch)
    for h in range(H):
        for w in range(W):
            position = (h % patch) * patch + w % patch
            token = (h // patch) * columns + w // patch
            assert torch.equal(tokens[:, position, token], x[:, :, h, w])
            assert torch.equal(channels_first[:, :, position, token], x[:, :, h, w])
    assert torch.equal(fold(tokens, patch=patch, size=(H, W)), x)
    assert torch.equal(fold_channels(channels_first, patch=patch, size=(H, W)), x)


def test_whole_patches_rounds_up():
    assert whole_patches(torch.empty(1, 1, 9, 16), patch=2) == (10, 16)


@given(patch=st.integers(1, 3), H=st.integers(1, 5), W=st.integers(1, 5))
def test_every_pixel_is_a_member_of_its_position_alone(patch, H, W):
    member = membership(torch.empty(1, 2, H, W), patch=patch)
    expected = torch.zeros(patch * patch, H, W, dtype=torch.bool)
    for h in range(H):
        for w in range(W):
            expected[(h % patch) * patch + w % patch, h, w] = True
    assert torch.equal(member, expected.flatten(1))
