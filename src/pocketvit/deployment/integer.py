"""Write a quantized network as one ONNX file that runtimes execute in integers."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from pocketvit.core.files import sha256_of, write_bytes
from pocketvit.deployment.attention import fuse_attention
from pocketvit.deployment.onnx import OnnxFile, check_graph, tidy, trace
from pocketvit.quantization import QuantizedNetwork
from pocketvit.quantization.gated import GatedActivation
from pocketvit.quantization.lowering import lower
from pocketvit.quantization.operators import Operator
from pocketvit.tasks.card import ModelCard

__all__ = ["CARRIERS", "OPERATORS_KEY", "export_integer", "stated_runtime"]

OPERATORS_KEY = "pocketvit.operators"
"""Metadata of the file: its runtime, name and kind of every operator, which were left in float and why."""

CARRIERS = ("QuantizeLinear", "DequantizeLinear", "Clip", "Reshape", "Transpose", "Unsqueeze", "Squeeze")
"""Nodes of an operator that bring its tensors into shape, and are not the operator."""

_SCOPES = "pkg.torch.onnx.name_scopes"


def export_integer(
    network: QuantizedNetwork,
    path: Path,
    *,
    card: ModelCard,
    cost: Mapping[str, int] | None = None,
) -> OnnxFile:
    """Write `network` to `path`: QuantizeLinear and DequantizeLinear around every quantized operator.

    Weights are int8 with a scale for each output channel, activations uint8, biases int32; grids of fewer
    than 8 bits are the same integers within explicit bounds. Input, output, card and atomic writing are those
    of `export_onnx`. A node is named after its operator: `stages.0.conv/Conv`; what only carries tensors has
    no name. What passes between nodes is numbered, and shapes are left to whoever opens the file.

    Args:
        cost: `params` and `macs` of the network before it was rewritten, for the metadata.

    Raises:
        ExportError: a quantizer that no integer kernel executes, named; or the graph cannot be written.
        StorageError: the disk is full or not writable; a previous file is untouched.
    """
    started = time.perf_counter()
    graph = trace(lower(network), network.size)
    _name_nodes(graph, list(network.operators))
    if network.runtime == "onnxruntime":
        graph = fuse_attention(graph)
    tidy(graph)
    _shorten(graph.graph)
    metadata = card.to_metadata() | {key: str(value) for key, value in (cost or {}).items()}
    metadata[OPERATORS_KEY] = json.dumps(_stated(network), separators=(",", ":"))
    helper.set_model_props(graph, metadata)
    check_graph(graph, classes=len(card.classes))
    write_bytes(path, graph.SerializeToString())
    return OnnxFile(
        path=path,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        opset=graph.opset_import[0].version,
        nodes=len(graph.graph.node),
        seconds=time.perf_counter() - started,
        metadata=metadata,
        rewrites=(),
    )


def stated_runtime(path: Path) -> str | None:
    """The runtime that an integer file was made for; `None` of a file without integers."""
    metadata = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    return json.loads(metadata[OPERATORS_KEY]).get("runtime") if OPERATORS_KEY in metadata else None


def _stated(network: QuantizedNetwork) -> dict[str, Any]:
    """The runtime, the kind of every operator with `float` before it where it is not quantized, and the rest.

    What is computed in the place of an operator stands behind its kind. `reasons` says why the runtime's
    kernels want an operator in float; `functions` are other arithmetic.
    """
    return {
        "runtime": network.runtime,
        "operators": {name: _kind(operator) for name, operator in network.operators.items()},
        "reasons": {name: o.float_reason for name, o in network.operators.items() if o.float_reason},
        "functions": list(network.float_functions),
    }


def _kind(operator: Operator) -> str:
    if not operator.quantized or not operator.has_quantizers:
        return f"float {operator.kind}"
    if isinstance(operator, GatedActivation) and operator.arithmetic:
        return f"{operator.kind}, {operator.arithmetic}"
    return operator.kind


def _shorten(graph: onnx.GraphProto) -> None:
    """Leave out shapes and the long names of what passes between nodes: a tenth of a small network's file."""
    graph.ClearField("value_info")
    kept = {value.name for value in (*graph.input, *graph.output)}
    made = [name for node in graph.node for name in node.output if name]
    stored = [tensor.name for tensor in graph.initializer]
    short = {name: str(i) for i, name in enumerate(name for name in (*stored, *made) if name not in kept)}
    for tensor in graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]


def _name_nodes(graph: onnx.ModelProto, operators: list[str]) -> None:
    """Name nodes after the operators that they are, so that runtimes speak of these."""
    seen: Counter[str] = Counter()
    for node in graph.graph.node:
        if node.op_type in CARRIERS:
            node.ClearField("name")
            continue
        notes = {entry.key: entry.value for entry in node.metadata_props}
        for scope in notes.get(_SCOPES, "").replace("'", "").strip("[]").split(", "):
            container, _, index = scope.partition(".")
            if container == "operators" and index.isdigit():
                name = f"{operators[int(index)]}/{node.op_type}"
                seen[name] += 1
                node.name = name if seen[name] == 1 else f"{name}-{seen[name]}"
