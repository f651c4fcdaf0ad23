"""What every registered model promises, whoever implements it."""

import copy
import re
import warnings
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocketvit.backbones import create_model, get_entry, list_models
from pocketvit.deployment import export_onnx
from pocketvit.deployment.runtime import ExportedClassifier
from pocketvit.tasks import ModelCard

# One of each family is tested always, all others when slow tests are.
QUICK = {
    "cas_vit": "cas_vit_xs",
    "efficientformer": "efficientformer_l1",
    "efficientformerv2": "efficientformerv2_s0",
    "mobile_former": "mobile_former_26m",
    "mobilevit": "mobilevit_xxs",
    "mobilevitv2": "mobilevitv2_050",
    "swiftformer": "swiftformer_xs",
}
BASELINES = ("mobilenetv3_large_100", "deit_tiny_distilled_patch16_224")
ALWAYS = (*QUICK.values(), *BASELINES)

# Promises that a model cannot keep. Each must really be broken: one that is kept fails here.
NO_LEVELS = "a plain vision transformer has stride 16 throughout"
BROKEN = {
    **{(name, "odd size"): "it is built for 224 px images" for name in list_models("deit_*")},
    **{(name, "features"): NO_LEVELS for name in list_models("deit_*")},
}

CLASSES = ("ant", "bee", "cat")

_TRACED: dict[tuple, str] = {}
"""Layouts of networks that `test_torch_export_keeps_any_batch` has traced, and whose."""


def _architectures():
    """Registered names without those that differ from another only in their weights."""
    others = (name for name in list_models() if not re.search(r"_in22k|_384$", name))
    return [*ALWAYS, *(name for name in others if name not in ALWAYS)]


def _promise(what, names=None, *, all_slow=False):
    """Parametrize a test by `name`, with the marks that follow from the tables above.

    The scope brings all tests of a name together: its network is built once.
    """
    cases = []
    for name in names or _architectures():
        marks = [pytest.mark.slow] if all_slow or name not in ALWAYS else []
        if reason := BROKEN.get((name, what)):
            marks.append(pytest.mark.xfail(strict=True, reason=reason))  # BROKEN says which and why
        cases.append(pytest.param(name, marks=marks))
    return pytest.mark.parametrize("name", cases, scope="module")


def _size(name):
    """A small input size that the model takes."""
    entry = get_entry(name)
    return 64 if entry.any_size else entry.preprocessing.size


def _images(name, batch=2):
    size = _size(name)
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def build(randomise):
    """A network whose every tensor matters, in evaluation mode."""

    @lru_cache(maxsize=1)
    def build_once(name):
        torch.manual_seed(0)
        scale = 1.5 if get_entry(name).family == "mobilevit" else 0.5  # else it forgets the image
        return randomise(create_model(name, num_classes=len(CLASSES)), scale=scale).eval()

    return lambda name: copy.deepcopy(build_once(name))


def test_every_family_is_tested_always():
    families = {get_entry(name).family for name in list_models()}
    assert families == {*QUICK, "baseline"}
    assert all(get_entry(name).family == family for family, name in QUICK.items())


@_promise("forward")
def test_forward_gives_each_image_its_own_finite_logits(name, build):
    model, images = build(name), _images(name)
    with torch.no_grad():
        logits = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert logits.shape == (2, len(CLASSES))
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])
    torch.testing.assert_close(alone, logits, rtol=1e-3, atol=1e-4)


@_promise("backward")
def test_backward_reaches_every_parameter(name, build):
    model = build(name).train()
    model(_images(name)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@_promise("features")
def test_features_have_the_strides_and_channels_they_say(name):
    model = create_model(name, features_only=True).eval()
    with torch.no_grad():
        levels = model(_images(name))
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for level, stride, channels in zip(
        levels, model.feature_info.reduction(), model.feature_info.channels(), strict=True
    ):
        assert level.shape == (2, channels, _size(name) // stride, _size(name) // stride)


@_promise("odd size")
def test_odd_sizes_are_taken(name, build):
    model = build(name)
    with torch.no_grad():
        for height, width in ((97, 65), (33, 129)):
            logits = model(torch.rand(1, 3, height, width))
            assert logits.shape == (1, len(CLASSES))
            assert torch.isfinite(logits).all()


@_promise("state dict")
def test_weights_in_a_file_make_the_same_network(name, build, tmp_path):
    model, images = build(name), _images(name)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    other = create_model(name, num_classes=len(CLASSES)).eval()
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


@_promise("bf16")
def test_bfloat16_is_close_to_float32(name, build, shallow):
    """Through the whole depth for one of each family."""
    model, images = build(name), _images(name)
    model = model if name in ALWAYS else shallow(model, _size(name))
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(images)
        pure = model.bfloat16()(images.bfloat16())
    assert pure.dtype == torch.bfloat16
    for logits in (mixed, pure):
        assert (logits.float() - exact).norm() < 0.1 * exact.norm()


@_promise("one graph", ALWAYS)
def test_torch_compile_takes_it_as_one_graph(name, build, shallow):
    model, images = shallow(build(name), _size(name)), _images(name)
    torch.compiler.reset()
    captured = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(captured(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_torch_compile_generates_code(build, shallow):
    """For one mixer: code is generated from the graphs above, and compiling a whole network takes minutes."""
    block = shallow(build("swiftformer_xs")).stages[0].blocks[-1].attn
    x = torch.rand(2, 48, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), block(x), rtol=1e-3, atol=1e-4)


@_promise("torch.export")
def test_torch_export_keeps_any_batch(name, build, shallow):
    """Networks that differ in numbers only, as the sizes of a family do, are traced once."""
    model = shallow(build(name), _size(name))
    layout = frozenset((re.sub(r"\d+", "*", path), type(module)) for path, module in model.named_modules())
    if name != _TRACED.setdefault(layout, name):
        pytest.skip(f"differs in numbers only from {_TRACED[layout]}, which was traced")
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        # timm's attention keeps a table of position biases per device when first run.
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        program = torch.export.export(model, (_images(name),), dynamic_shapes=({0: batch},))
    more = _images(name, batch=3)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), model(more), rtol=1e-4, atol=1e-5)


@_promise("ONNX", ALWAYS, all_slow=True)
def test_exported_file_computes_the_same(name, build, shallow, tmp_path):
    entry, model = get_entry(name), shallow(build(name), _size(name))
    card = ModelCard(
        name=name,
        classes=CLASSES,
        preprocessing=replace(entry.preprocessing, size=_size(name)),
        code_licence=entry.code_licence,
        weights_licence=entry.weights_licence,
        source=entry.source,
    )
    file = export_onnx(model, tmp_path / "model.onnx", card=card)
    exported = ExportedClassifier.load(file.path, threads=1)
    for batch in (1, 2, 5):
        images = _images(name, batch=batch)
        with torch.no_grad():
            expected = model(images)
        torch.testing.assert_close(
            exported(images), expected, rtol=0, atol=5e-5 * float(expected.abs().max())
        )
