import zlib

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def randomise():
    """Fill every tensor of a network, batch statistics too, with values that keep activations in range.

    MobileViT needs scale 1.5: below, normalisation after normalisation makes its features forget the image.
    """

    def fill(model, seed=0, scale=0.5):
        generator = torch.Generator().manual_seed(seed)
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if key.endswith("running_var"):
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.numel() != tensor.shape[0]:
                tensor.copy_(scale * noise / (tensor.numel() / tensor.shape[0]) ** 0.5)
            else:
                is_offset = key.endswith(("bias", "running_mean"))
                tensor.copy_(0.1 * noise + (0 if is_offset else 1))
        return model

    return fill


@pytest.fixture(scope="session")
def fill_by_key():
    """The fill that the golden logits were computed with: each tensor from a generator seeded by its name."""

    def fill(model, scale):
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            if key.endswith("running_var"):
                tensor.copy_(1 + 0.2 * torch.rand(tensor.shape, generator=generator))
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if key.endswith("running_mean"):
                tensor.copy_(0.1 * noise)
            elif tensor.numel() != tensor.shape[0]:
                tensor.copy_(scale * noise / (tensor.numel() / tensor.shape[0]) ** 0.5)
            elif key.endswith("bias"):
                tensor.copy_(0.1 * noise)
            else:
                tensor.copy_(1 + 0.1 * noise)
        return model

    return fill


@pytest.fixture(scope="session")
def check_golden(fill_by_key):
    """Compare the logits of a network under `fill_by_key` with published golden ones, in float64."""

    def check(model, *, scale, size, first8, total, norm, argmax):
        model = fill_by_key(model, scale).double().eval()
        images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).double()
        with torch.no_grad():
            logits = model(images)[0]
        # the golden numbers are printed with eight (logits) and six decimals
        torch.testing.assert_close(logits[:8], torch.tensor(first8).double(), rtol=1e-6, atol=1e-8)
        assert logits.sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert logits.norm().item() == pytest.approx(norm, rel=1e-6)
        assert logits.argmax().item() == argmax

    return check


@pytest.fixture(scope="session")
def check_parity(randomise):
    """The same weights, loaded strictly, give the logits, features and (if asked) gradients of timm."""

    def check(reference, model, *, size=(64, 64), gradients=False, scale=0.5):
        reference, model = randomise(reference, scale=scale).double(), model.double()
        model.load_state_dict(reference.state_dict(), strict=True)
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)).double()
        close = {"rtol": 1e-9, "atol": 1e-9}
        reference.train(gradients), model.train(gradients)
        with torch.set_grad_enabled(gradients):
            ours, theirs = model(images), reference(images)
        torch.testing.assert_close(ours, theirs, **close)
        assert (theirs[0] - theirs[1]).abs().max() > 1e-3, "these weights make the network forget the image"
        if gradients:
            weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2)).double()
            (ours * weights).sum().backward(), (theirs * weights).sum().backward()
            expected = dict(reference.named_parameters())
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-7, atol=1e-9)
            return
        with torch.no_grad():
            features = model.forward_intermediates(images, intermediates_only=True)
            expected = reference.forward_intermediates(images, intermediates_only=True)[-4:]
        for ours, theirs in zip(features, expected, strict=True):
            torch.testing.assert_close(ours, theirs, **close)

    return check
