import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit.mixers import ConvolutionalAdditiveMixer


def depthwise(conv, t):
    """A depthwise 3×3 convolution with zero padding, tap by tap."""
    C, H, W = t.shape
    out = torch.empty_like(t)
    for c in range(C):
        for h in range(H):
            for w in range(W):
                total = conv.bias[c].clone()
                for dh in (-1, 0, 1):
                    for dw in (-1, 0, 1):
                        if 0 <= h + dh < H and 0 <= w + dw < W:
                            total += conv.weight[c, 0, dh + 1, dw + 1] * t[c, h + dh, w + dw]
                out[c, h, w] = total
    return out


def gated(gates, t):
    """Φ(t): the spatial gate first, then the channel gate of what it left."""
    conv, norm, _, to_one, _ = gates[0].block
    local = depthwise(conv, t)
    shape = (-1, 1, 1)
    local = (local - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    local = torch.clamp(local * norm.weight.view(shape) + norm.bias.view(shape), min=0)
    t = t * torch.sigmoid(torch.einsum("c,chw->hw", to_one.weight[0, :, 0, 0], local))
    channel = torch.sigmoid(gates[1].block[1].weight[:, :, 0, 0] @ t.mean(dim=(1, 2)))
    return t * channel.view(shape)


def brute_force(mixer, x):
    """The equation in the docstring, one image at a time."""
    out = []
    for image in x:
        q, k, v = torch.einsum("oc,chw->ohw", mixer.qkv.weight[:, :, 0, 0], image).chunk(3)
        similarity = gated(mixer.oper_q, q) + gated(mixer.oper_k, k)
        out.append(depthwise(mixer.proj, depthwise(mixer.dwc, similarity) * v))
    return torch.stack(out)


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 2), dim=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 4))
def test_equals_brute_force(batch, dim, height, width):
    torch.manual_seed(0)
    mixer = ConvolutionalAdditiveMixer(dim=dim).double().eval()
    with torch.no_grad():
        for gates in (mixer.oper_q, mixer.oper_k):
            norm = gates[0].block[1]
            norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
            norm.weight.normal_(), norm.bias.normal_()
        x = torch.randn(batch, dim, height, width).double()
        torch.testing.assert_close(mixer(x), brute_force(mixer, x), rtol=1e-10, atol=1e-12)


def test_input_is_left_as_it_was():
    mixer = ConvolutionalAdditiveMixer(dim=3)
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    mixer(x)
    assert torch.equal(x, before)
