"""In which precision a runtime executes each operator of a quantized file, and why some stay in float."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from pocketvit.core.errors import CheckpointError
from pocketvit.core.names import unknown_name
from pocketvit.deployment.integer import CARRIERS, OPERATORS_KEY
from pocketvit.deployment.openvino import open_compiled

__all__ = ["OperatorPrecision", "precision_table"]

_SPREAD = "the integer {} returns integers; this one is also read in float or on several grids"
_NOT_IN_ONNXRUNTIME = {
    "convolution": "ONNX Runtime's integer convolution returns integers; this one has to return float",
    "linear": "W x runs as a convolution, and that has to return integers to be one of integers",
    "addition": _SPREAD.format("sum"),
    "multiplication": _SPREAD.format("product"),
}


@dataclass(frozen=True, kw_only=True)
class OperatorPrecision:
    """How one operator is executed.

    Attributes:
        operator: its name in the network.
        kind: such as `convolution`; `function` for arithmetic that is no operator.
        precision: `int8`, `float32`, or `merged`, when the runtime removed it or made it part of another.
        reason: why it is not `int8`; empty otherwise.
    """

    operator: str
    kind: str
    precision: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        """For result files."""
        return asdict(self)


def precision_table(path: Path, *, runtime: str = "onnxruntime") -> list[OperatorPrecision]:
    """Every operator of a file of `export_integer` as the runtime executes it after its own optimisation.

    Args:
        runtime: `onnxruntime` or `openvino`.

    Raises:
        UnknownNameError: another runtime.
        ConfigError: OpenVINO is not installed.
        CheckpointError: the file is missing, or not one of `export_integer`.
    """
    if runtime not in _EXECUTED:
        raise unknown_name("runtime", runtime, _EXECUTED)
    stated = _stated(path)
    operators, reasons = stated["operators"], stated.get("reasons", {})
    found: dict[str, bool] = {}
    for node, integer in _EXECUTED[runtime](path):
        name = _owner(node, operators)
        if name is not None:
            found[name] = found.get(name, False) or integer
    rows = [
        _row(name, kind, found.get(name), reasons.get(name, ""), runtime) for name, kind in operators.items()
    ]
    return rows + [
        OperatorPrecision(
            operator=name, kind="function", precision="float32", reason="no operator that is quantized here"
        )
        for name in stated["functions"]
    ]


def _row(name: str, kind: str, integer: bool | None, chosen: str, runtime: str) -> OperatorPrecision:
    plain = kind.removeprefix("float ")
    if integer:
        precision, reason = "int8", ""
    elif integer is None and not chosen:
        precision, reason = "merged", "removed, or part of another operator"
    elif chosen or kind != plain:
        precision, reason = "float32", chosen or "left in float by the scope or by --keep-float"
    elif runtime == "onnxruntime":
        reason = _NOT_IN_ONNXRUNTIME.get(kind, f"ONNX Runtime has no integer kernel for a {kind} here")
        precision = "float32"
    else:
        precision, reason = "float32", f"OpenVINO chose no integer kernel for this {kind}"
    return OperatorPrecision(operator=name, kind=plain, precision=precision, reason=reason)


def _stated(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    if OPERATORS_KEY not in metadata:
        raise CheckpointError(
            f"{path} does not say which operators it has.", fix="Write it with `pocketvit quantize`."
        )
    return json.loads(metadata[OPERATORS_KEY])


def _owner(node: str, operators: dict[str, str]) -> str | None:
    """The operator that a node computes; `None` for what only carries its tensors."""
    place, _, own = node.rpartition("/")
    while place and place not in operators:
        place, _, own = place.rpartition("/")
    return place if place and not own.startswith(CARRIERS) else None


def _in_onnxruntime(path: Path) -> Iterator[tuple[str, bool]]:
    """Nodes of the optimised graph, and whether they compute in integers."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(optimised)
        # A layout of blocks is for float convolutions only, and these lose their names in it.
        ort.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
        )
        nodes = onnx.load(optimised).graph.node
    for node in nodes:
        integer = node.op_type.startswith("QLinear") or node.op_type in {"QGemm", "MatMulIntegerToFloat"}
        yield node.name, integer


def _in_openvino(path: Path) -> Iterator[tuple[str, bool]]:
    """Names of what the compiled graph executes, and whether that computes in integers.

    A product that takes in the rounding behind it goes by the name of that.
    """
    nodes = onnx.load(path).graph.node
    by_name, by_output = {node.name: node for node in nodes}, {o: node for node in nodes for o in node.output}
    for operator in open_compiled(path, threads=1).get_runtime_model().get_ops():
        told = {key: value.astype(str) for key, value in operator.get_rt_info().items()}
        integer = told["runtimePrecision"] in {"u8", "i8"}
        names = told["originalLayersNames"].split(",")
        if told["layerType"] in {"Convolution", "FullyConnected", "MatMul"}:
            # weights stored as integers are its precision where it multiplies floats
            integer = integer and not told["primitiveType"].endswith(("f32", "f16"))
            known = [by_name[name] for name in names if name in by_name]
            names += _product_behind(known, by_output)
        for name in names:
            yield name, integer


_PRODUCTS = {"Conv", "Gemm", "MatMul"}


def _product_behind(known: list[onnx.NodeProto], makers: dict[str, onnx.NodeProto]) -> list[str]:
    """The nearest product that the first of these nodes reads; nothing where one of them is a product."""
    waiting = [] if any(node.op_type in _PRODUCTS for node in known) else known[:1]
    for node in waiting:  # grows
        if node.op_type in _PRODUCTS:
            return [node.name]
        waiting += [makers[name] for name in node.input if name in makers]
    return []


_EXECUTED: dict[str, Callable[[Path], Iterator[tuple[str, bool]]]] = {
    "onnxruntime": _in_onnxruntime,
    "openvino": _in_openvino,
}
