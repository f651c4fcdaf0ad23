"""Write a network as one self-contained ONNX file that also says how to use it."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx import checker, helper
from torch import nn

from pocketvit.backbones.complexity import measure_complexity
from pocketvit.core.errors import ExportError
from pocketvit.core.files import sha256_of, write_bytes
from pocketvit.deployment.attention import fuse_attention
from pocketvit.deployment.rewrites import Rewrite, rewrite_for_inference
from pocketvit.deployment.simplification import simplify
from pocketvit.quantization.qdq import TRANSLATIONS
from pocketvit.tasks.card import ModelCard

__all__ = ["OnnxFile", "check_graph", "export_onnx", "frozen_copy", "tidy", "trace"]

# Opset 20 is the first with Gelu as an operator; at 18 it is spelled out as five, and SwiftFormer and
# EfficientFormerV2 run 20 to 30 % slower in ONNX Runtime 1.31. Opset 21 turns MobileViTv2's normalisation
# into GroupNormalization, which that runtime executes 8 % slower than the InstanceNormalization of opset 20.
_OPSET = 20

_LARGEST = 2**31 - 1  # bytes: a protobuf cannot be larger


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An ONNX file that was written.

    Attributes:
        path: where it is.
        sha256: of its bytes, hexadecimal.
        bytes: its size.
        opset: version of the ONNX operator set it needs.
        nodes: operators in the graph; batch normalisations after a convolution are folded into it.
        seconds: how long writing took.
        metadata: the key-value pairs in the file: the card's, and `params` and `macs` (for one image) of the
            network before it was rewritten.
        rewrites: what was merged exactly on the way, and what that saved.
    """

    path: Path
    sha256: str
    bytes: int
    opset: int
    nodes: int
    seconds: float
    metadata: dict[str, str]
    rewrites: tuple[Rewrite, ...]


def export_onnx(model: nn.Module, path: Path, *, card: ModelCard) -> OnnxFile:
    """Write `model` to `path`: float32, any batch size, weights and `card` inside.

    The graph has one input `image`, `(batch, 3, S, S)` with `S = card.preprocessing.size`, prepared as the
    card says, and one output `logits`, `(batch, classes)`. What can be merged exactly is merged first (see
    `rewrites`), and softmax attention becomes one operator (see `attention`). The file is written atomically;
    `model` itself is not changed.

    Raises:
        ExportError: the network cannot be expressed in ONNX.
        StorageError: the disk is full or not writable; a previous file is untouched.
    """
    started = time.perf_counter()
    network, size = frozen_copy(model), card.preprocessing.size
    # in double precision, so that every merged weight is rounded once
    rewritten, rewrites = rewrite_for_inference(network.double(), size=size)
    network.float()
    graph = fuse_attention(trace(frozen_copy(rewritten), size))
    tidy(graph)
    cost = measure_complexity(network, size)
    metadata = card.to_metadata() | {"params": str(cost.params), "macs": str(cost.macs)}
    helper.set_model_props(graph, metadata)
    check_graph(graph, classes=len(card.classes))
    write_bytes(path, graph.SerializeToString())
    return OnnxFile(
        path=path,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        opset=_OPSET,
        nodes=len(graph.graph.node),
        seconds=time.perf_counter() - started,
        metadata=metadata,
        rewrites=tuple(rewrites),
    )


def frozen_copy(model: nn.Module) -> nn.Module:
    """`model` as it is deployed: in evaluation mode, float32, on the CPU; the original stays as it is."""
    frozen = copy.deepcopy(model).to("cpu", torch.float32).to(memory_format=torch.contiguous_format)
    return frozen.eval().requires_grad_(False)


def trace(model: nn.Module, size: int) -> onnx.ModelProto:
    """The graph of a network as it is, for images `size` × `size`, any batch.

    Raises:
        ExportError: the network cannot be expressed in ONNX.
    """
    # Two images, because torch.export takes a dimension of one for a constant.
    example = torch.zeros(2, 3, size, size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # timm's attention modules keep a table of position biases per device when first run; the exporter
            # warns that the table is not a buffer. It is a constant of the graph, as verification confirms.
            warnings.filterwarnings(
                "ignore", message="The tensor attributes? .* assigned during export", category=UserWarning
            )
            # The exporter of torch 2.11 uses something that torch 2.11 itself has deprecated.
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec", category=FutureWarning)
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                optimize=False,  # below, by `simplify`
                opset_version=_OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                verbose=False,
                custom_translation_table=dict(TRANSLATIONS),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(
            f"{type(model).__name__} cannot be written as ONNX: {_first_line(error)}",
            fix="Run again with --debug for the exporter's own report.",
        ) from error
    assert program is not None  # only None when the exporter writes the file itself
    simplify(program.model)
    return program.model_proto


def tidy(graph: onnx.ModelProto) -> None:
    """Drop the exporter's debugging notes: a tenth of the file, and they name folders of this machine."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    graph.graph.ClearField("metadata_props")
    graph.graph.ClearField("doc_string")


def check_graph(graph: onnx.ModelProto, *, classes: int) -> None:
    """Refuse a graph that is not valid, not of any batch size, or of another number of classes.

    Raises:
        ExportError: one of these.
    """
    if graph.ByteSize() > _LARGEST:
        raise ExportError("The network is larger than 2 GB, more than one ONNX file can hold.")
    try:
        checker.check_model(graph, full_check=True)
    except (checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exporter wrote an invalid ONNX graph: {_first_line(error)}") from error
    (image,), (logits,) = graph.graph.input, graph.graph.output
    batch = image.type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise ExportError(
            f"The graph only accepts batches of {batch.dim_value}: the network fixes that number."
        )
    width = logits.type.tensor_type.shape.dim[-1].dim_value
    if width != classes:
        raise ExportError(f"The network has {width} logits, but {classes} classes were named.")


def _first_line(error: BaseException) -> str:
    """The most specific message in a chain of causes, without its stack of notes."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0] or type(error).__name__
