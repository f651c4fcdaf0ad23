from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from pocketvit.backbones import create_model
from pocketvit.core.errors import ExportError
from pocketvit.deployment.integer import CARRIERS, export_integer
from pocketvit.deployment.integer_verification import open_integer, verify_integer
from pocketvit.deployment.onnx import trace
from pocketvit.deployment.openvino import has_openvino
from pocketvit.deployment.precision import precision_table
from pocketvit.deployment.preparation import prepare_for_quantization
from pocketvit.mixers import SoftmaxAttention
from pocketvit.quantization import Calibration, QuantizationSpec, capture, quantize
from pocketvit.quantization.lowering import lower
from pocketvit.quantization.quantizers import UniformQuantizer

RUNTIMES = ["onnxruntime", *(["openvino"] if has_openvino() else [])]


def run_plainly(path: Path, images: Tensor) -> Tensor:
    """As the file says, node by node, nothing merged."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run(None, {"image": images.numpy()})[0]))


def merged_kinds(path: Path) -> list[str]:
    """What kinds of nodes ONNX Runtime makes of a file."""
    merged = path.with_suffix(".merged.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(merged), 3
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(merged).graph.node]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("weights", "activations", "scope"),
    [(8, 8, "partial"), (8, 8, "full"), (6, 6, "full"), (4, 8, "partial")],
)
def test_the_file_computes_what_the_simulation_computes(
    calibrated, captured, small_images, small_card, tmp_path, weights, activations, scope, runtime
) -> None:
    network = calibrated(weights=weights, activations=activations, scope=scope, runtime=runtime)
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    want, float_logits = network(small_images), captured(small_images)
    noise = (want - float_logits).abs().mean()
    assert noise > 0
    # Rounding to steps s has a variance of s² / 12. Where a share p of all numbers is rounded the other way,
    # that is p s², or √(12 p) of the noise: 5 % of it for p = 0.02 %, 30 % for p = 0.75 %.
    assert (run_plainly(path, small_images) - want).abs().mean() < 0.05 * noise
    labelled = [(small_images, float_logits.argmax(1))]
    for result in verify_integer(network, path, labelled, runtimes=[runtime], strict=False):
        assert result.mean_difference * want.abs().mean() < 0.3 * noise, result


def test_weights_are_stored_as_integers(captured, integer_file, small_card) -> None:
    graph = onnx.load(integer_file.path).graph
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    weights = [
        operator.weight
        for operator in captured.operators.values()
        if operator.weight is not None and not captured.reads_image(operator)
    ]
    integers = sum(tensor.size for tensor in stored if tensor.dtype == np.int8 and tensor.ndim > 1)
    assert integers == sum(weight.numel() for weight in weights)
    assert integer_file.metadata.items() >= small_card.to_metadata().items()


def test_names_and_shapes_take_no_room(integer_file) -> None:
    graph = onnx.load(integer_file.path).graph
    assert not graph.value_info
    passed = {name for node in graph.node for name in (*node.input, *node.output) if name}
    assert passed == {"image", "logits", *map(str, range(len(passed) - 2))}
    assert all(bool(node.name) == (node.op_type not in CARRIERS) for node in graph.node), (
        "which operator they are"
    )


def test_six_bits_stay_within_six_bits(calibrated, captured, small_images, small_card, tmp_path) -> None:
    network = calibrated(weights=6, activations=6)
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    far = small_images * 100  # clipped at the ends of the six-bit ranges, not of the eight-bit type
    near_error = (network(small_images) - captured(small_images)).abs().max()
    assert (network(far) - captured(far)).abs().max() > near_error
    torch.testing.assert_close(run_plainly(path, far), network(far), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_six_bits_are_clipped_where_the_runtime_keeps_the_numbers(
    calibrated, small_card, tmp_path, runtime
) -> None:
    network = calibrated(method="pocket", weights=6, activations=6, scope="full", runtime=runtime)
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    nodes = onnx.load(path).graph.node
    makers = {name: node for node in nodes for name in node.output}
    kinds = [(node.op_type, getattr(makers.get(node.input[0]), "op_type", "")) for node in nodes]
    # ONNX Runtime makes one grid of two that follow each other, OpenVINO 2026.4 errs behind a rounding and
    # has numbers on the grid become integers without an error of its own.
    right, wrong = {"onnxruntime": ("Clip", "QuantizeLinear"), "openvino": ("Mul", "Clip")}[runtime]
    assert ("QuantizeLinear", right) in kinds
    assert (wrong, "DequantizeLinear") not in kinds
    if runtime == "openvino":
        assert {before for kind, before in kinds if kind == "QuantizeLinear"} == {right}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_only_onnx_runtime_is_told_that_weights_have_no_zero_point(
    calibrated, small_card, tmp_path, runtime
) -> None:
    path = tmp_path / "model.onnx"
    export_integer(calibrated(runtime=runtime), path, card=small_card)
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    told = [len(n.input) for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    assert set(told) == {3 if runtime == "onnxruntime" else 2}


@pytest.mark.parametrize("activations", [8, 6])
@pytest.mark.parametrize("scope", ["partial", "full"])
def test_gelu_is_a_table_and_a_product_in_onnx_runtime(small_card, tmp_path, scope, activations) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.GELU(),
        nn.Conv2d(16, 8, 1),
        nn.Flatten(),
        nn.Linear(512, 3),
    )
    images = torch.randn(16, 3, 8, 8)
    spec = QuantizationSpec(activations=activations, scope=scope, runtime="onnxruntime")
    network = quantize(prepare_for_quantization(layers.eval(), size=8), spec, Calibration(images))
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    step = network(images).std() / 100
    assert (run_plainly(path, images) - network(images)).abs().mean() < step
    kinds = merged_kinds(path)
    assert "Gelu" not in kinds
    assert "Sigmoid" not in kinds or (scope, activations) == ("full", 6), "bounds stand between two scales"
    assert kinds.count("QLinearSigmoid") == 1 or (scope, activations) == ("full", 6)
    told = [row.kind for row in precision_table(path) if row.kind.startswith("activation,")]
    assert told == ["activation, GELU as x·σ(1.702 x)"]


def test_a_dead_channel_keeps_its_bias(block, small_images, small_card, tmp_path) -> None:
    dying = type(block)().eval()
    with torch.no_grad():
        dying.load_state_dict(block.state_dict())
        dying.depthwise.weight[0] = 1e-14
        dying.stem[0].weight[3] = 0
        dying.stem[0].bias[3] = 5
    spec = QuantizationSpec(method="minmax", runtime="onnxruntime")
    size = small_images.shape[-1]
    network = quantize(prepare_for_quantization(dying, size=size), spec, Calibration(small_images))
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    assert torch.isfinite(network(small_images)).all()
    torch.testing.assert_close(run_plainly(path, small_images), network(small_images), rtol=0.02, atol=0.02)


def test_what_cannot_be_lowered_leaves_no_file(calibrated, small_card, tmp_path) -> None:
    network = calibrated()
    scale = torch.full((8,), 0.1)
    network.operator("depthwise").set_input(0, UniformQuantizer(scale=scale, qmin=0, qmax=255, axis=1))
    with pytest.raises(ExportError, match="each channel of input 0 of depthwise"):
        export_integer(network, tmp_path / "model.onnx", card=small_card)
    assert not list(tmp_path.iterdir())


FAMILIES = [
    "mobilevit_xxs",
    "mobilevitv2_050",
    "swiftformer_xs",
    "cas_vit_xs",
    "mobile_former_26m",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "timm/mobilenetv3_small_050",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("scope", ["partial", "full"])
def test_integer_parity_on_every_family(name, scope, card, shallow, tmp_path) -> None:
    torch.manual_seed(0)
    size = 64
    model = shallow(create_model(name, num_classes=3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    images = torch.randn(8, 3, size, size)
    with torch.no_grad():
        model.train()(images)
    captured = prepare_for_quantization(model.eval(), size=size)
    small_card = replace(card, preprocessing=replace(card.preprocessing, size=size))
    for runtime in RUNTIMES:
        spec = QuantizationSpec(method="minmax", scope=scope, runtime=runtime)
        network = quantize(captured, spec, Calibration(images))
        path = tmp_path / f"{runtime}.onnx"
        file = export_integer(network, path, card=small_card)
        want = network(images)
        noise = (want - captured(images)).abs().mean()
        # Whatever rounds the other way moves what the next layers round. Two quantizations that have nothing
        # to do with each other differ by √2 of the noise; half of its power, 1 / √2, is far from that. Where
        # a runtime left out a rounding that the simulation has, it was 0.97. CAS-ViT's simulation in float32
        # can be 0.76 from itself in float64; its file is 0.77 then.
        labelled = [(images, want.argmax(1))]
        for result in verify_integer(network, path, labelled, runtimes=[runtime], strict=False):
            apart = result.mean_difference * want.abs().mean()
            assert apart < max(0.7 * noise, 1.15 * result.rounding_difference * want.abs().mean()), result
        convolutions = [row for row in precision_table(path, runtime=runtime) if row.kind == "convolution"]
        chosen = [row for row in convolutions if network.operator(row.operator).has_quantizers]
        in_float = [row for row in chosen if row.precision != "int8"]
        assert len(in_float) <= 0.2 * len(convolutions), in_float
        kept = [network.operator(row.operator) for row in convolutions if row not in chosen]
        assert all(operator.float_reason for operator in kept)
        assert len(chosen) > len(kept), kept  # Mobile-Former has many with several outputs each
        assert file.bytes < 0.45 * sum(p.numel() for p in model.parameters()) * 4


class Tokens(nn.Module):
    """A token by two linear maps too small for integers to pay, one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 32, 3, 2), nn.Linear(32, 64, bias=False)
        self.second, self.head = nn.Linear(64, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        token = self.stem(x).mean((2, 3)).unsqueeze(1)
        return self.head(torch.relu(self.second(torch.relu(self.first(token)))).flatten(1))


def test_onnx_runtime_multiplies_stored_integers_in_float(tmp_path, small_card) -> None:
    torch.manual_seed(0)
    size = small_card.preprocessing.size
    images = torch.randn(8, 3, size, size)
    spec = QuantizationSpec(method="minmax", runtime="onnxruntime")
    network = quantize(capture(Tokens().eval(), size=size), spec, Calibration(images))
    assert [o.name for o in network.operators.values() if o.weights_only] == ["first", "second"]
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    kinds = merged_kinds(path)
    assert "MatMulNBits" not in kinds, "it rounds what it reads"
    assert "MatMul" in kinds
    assert "Cast" not in kinds, "the weights are made floats once"
    stored = [
        tuple(t.dims) for t in onnx.load(path).graph.initializer if t.data_type == onnx.TensorProto.INT8
    ]
    assert {(64, 32), (32, 64)} <= set(stored)
    labelled = [(images, torch.zeros(8, dtype=torch.long))]
    (result,) = verify_integer(network, path, labelled, runtimes=["onnxruntime"], strict=False)
    assert result.agreement == 1


def test_a_softmax_between_convolutions_stays_in_float(tmp_path, small_card) -> None:
    torch.manual_seed(0)
    size = small_card.preprocessing.size
    talking_heads = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 1),
        nn.Softmax(-1),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(),
        nn.Linear(8 * size**2, 3),
    )
    images = torch.randn(8, 3, size, size)
    spec = QuantizationSpec(method="minmax", runtime="onnxruntime")
    network = quantize(capture(talking_heads.eval(), size=size), spec, Calibration(images))
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    assert "QLinearSoftmax" not in merged_kinds(path)
    assert "Softmax" in merged_kinds(path)


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_attention_between_as_many_tokens_as_heads(runtime, bits, tmp_path, small_card) -> None:
    torch.manual_seed(0)
    sized = replace(small_card, preprocessing=replace(small_card.preprocessing, size=4))
    attention = SoftmaxAttention(dim=32, heads=4, patch=2)
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 1), attention, nn.Conv2d(32, 8, 1), nn.Flatten(), nn.Linear(128, 3)
    )
    images = 3 * torch.randn(32, 3, 4, 4)
    spec = QuantizationSpec(method="minmax", weights=bits, activations=bits, runtime=runtime)
    network = quantize(prepare_for_quantization(layers.eval(), size=4), spec, Calibration(images))
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=sized)
    labelled = [(images, torch.zeros(32, dtype=torch.long))]
    (result,) = verify_integer(network, path, labelled, runtimes=[runtime], strict=False)
    assert result.mean_difference < 0.01 + result.rounding_difference, (
        "it is not to exchange tokens and heads"
    )


@pytest.mark.parametrize(("groups", "affine"), [(1, True), (3, False)])
def test_onnx_runtime_normalizes_many_integers_as_exactly_as_torch(groups, affine, tmp_path) -> None:
    torch.manual_seed(0)
    norm = nn.GroupNorm(groups, 3, affine=affine)
    if affine:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    images = (40 * torch.randn(4, 3, 256, 256) + 20).round().clamp(-100, 155)
    same = nn.Conv2d(3, 3, 1, bias=False)
    same.weight.data = torch.eye(3)[:, :, None, None]
    network = capture(nn.Sequential(same, norm, nn.Flatten()).eval(), size=256)
    network.runtime = "onnxruntime"
    grid = UniformQuantizer(
        scale=torch.tensor(1.0), zero_point=torch.tensor(100.0), qmin=0, qmax=255, axis=None
    )
    network.operator("1/norm").set_input(0, grid)
    path = tmp_path / "model.onnx"
    path.write_bytes(trace(lower(network), 256).SerializeToString())
    got = open_integer(path, runtime="onnxruntime")(images)
    want = copy.deepcopy(network).double()(images.double())
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_network_without_convolutions(runtime, small_card, tmp_path) -> None:
    torch.manual_seed(0)
    size = small_card.preprocessing.size
    layers = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * size**2, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 3)
    )
    images = torch.randn(64, 3, size, size)
    labels = layers.eval()(images).argmax(1)
    spec = QuantizationSpec(scope="full", runtime=runtime)
    network = quantize(capture(layers, size=size), spec, Calibration(images[:32], labels[:32]))
    path = tmp_path / "model.onnx"
    export_integer(network, path, card=small_card)
    (result,) = verify_integer(network, path, [(images, labels)], runtimes=[runtime])
    assert result.accuracy_file > 0.9
    small, last = (row for row in precision_table(path, runtime=runtime) if row.kind == "linear")
    assert (small.precision, last.precision) == ("float32", "int8")
    assert "so small a product" in small.reason
