"""Where the time of an exported file goes, by type of operator: what a runtime's own counters say."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

__all__ = ["PRODUCTS", "PROFILERS", "products_share", "profile_table"]

Array = NDArray[np.float32]
Profile = dict[str, dict[str, float]]
"""By type of operator: `calls` of one run, and their `us`, microseconds together."""

PRODUCTS = {
    *(
        "Conv",
        "Gemm",
        "MatMul",
        "FusedMatMul",
        "MultiHeadAttention",
    ),  # ONNX Runtime, the last with its softmax
    *("Convolution", "GroupConvolution", "FullyConnected"),  # OpenVINO
}
"""Operators that multiply and add: what is left when all else is gone."""

WARM_UP = 3


def in_onnxruntime(path: Path, images: Array, *, threads: int, runs: int) -> Profile:
    """From ONNX Runtime's profiler, median of `runs` for each node."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors only
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(WARM_UP + runs):
            session.run(None, {"image": images})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    return _by_type(
        (event["name"], event["args"]["op_name"], event["dur"])
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time")
    )


def in_openvino(path: Path, images: Array, *, threads: int, runs: int) -> Profile:
    """From OpenVINO's performance counters, median of `runs` for each node; it merges nodes as it likes.

    As in the product, OpenVINO knows how many images it gets.
    """
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(images.shape)
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    found: list[tuple[str, str, float]] = []
    for _ in range(WARM_UP + runs):
        request.infer({"image": images})
        found += [
            (node.node_name, node.node_type, node.real_time.total_seconds() * 1e6)
            for node in request.get_profiling_info()
            if node.status == openvino.ProfilingInfo.Status.EXECUTED
        ]
    return _by_type(found)


PROFILERS: dict[str, Callable[..., Profile]] = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
"""By runtime."""


def products_share(profile: Profile) -> float:
    """Which share of the time goes into products of matrices and convolutions."""
    total = sum(entry["us"] for entry in profile.values())
    return sum(entry["us"] for kind, entry in profile.items() if kind in PRODUCTS) / total


def profile_table(before: Profile, after: Profile, *, names: tuple[str, str] = ("timm", "ours")) -> str:
    """The two side by side, by type, the largest first."""
    nothing = {"calls": 0, "us": 0.0}
    pairs = {kind: (before.get(kind, nothing), after.get(kind, nothing)) for kind in {**before, **after}}
    lines = [f"{'operator':24}{names[0]:>8}{'µs':>10}{names[1]:>8}{'µs':>10}"]
    for kind, (old, new) in sorted(pairs.items(), key=lambda pair: -max(side["us"] for side in pair[1])):
        lines.append(f"{kind:24}{old['calls']:8.0f}{old['us']:10.0f}{new['calls']:8.0f}{new['us']:10.0f}")
    totals = [sum(entry["us"] for entry in profile.values()) for profile in (before, after)]
    lines.append(f"{'all':24}{'':8}{totals[0]:10.0f}{'':8}{totals[1]:10.0f}")
    shares = [f"{products_share(profile):.0%}" for profile in (before, after)]
    lines.append(f"{'of it in products':24}{'':8}{shares[0]:>10}{'':8}{shares[1]:>10}")
    return "\n".join(lines)


def _by_type(timings: Iterable[tuple[str, str, float]]) -> Profile:
    """Sum over nodes of the median over runs, from (node, type, microseconds) in order of execution."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for node, kind, microseconds in timings:
        times[kind, node].append(microseconds)
    profile: Profile = defaultdict(lambda: {"calls": 0, "us": 0.0})
    for (kind, _), found in times.items():
        if len(found) <= WARM_UP:
            continue  # done once and kept, as OpenVINO does with what only reads constants
        profile[kind]["calls"] += 1
        profile[kind]["us"] += float(np.median(found[WARM_UP:]))
    return {kind: {"calls": entry["calls"], "us": round(entry["us"], 1)} for kind, entry in profile.items()}
