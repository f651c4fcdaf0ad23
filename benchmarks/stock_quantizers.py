"""What users reach for today, on the same trained networks and calibration images.

Each takes the float network and calibration images, and writes a file or returns a function from images to
logits. The tools keep their defaults, apart from what a name says.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketvit.deployment.integer_verification import open_integer
from pocketvit.deployment.onnx import frozen_copy, trace
from pocketvit.deployment.rewrites import apply_rewrites

__all__ = ["STOCK", "STOCK_FILES"]

Predict = Callable[[Tensor], Tensor]
_CALIBRATION_BATCH = 8


def onnxruntime_products(model: nn.Module, images: Tensor, folder: Path) -> Path:
    """ONNX Runtime's static quantization of convolutions and matrix products, a scale an output channel."""
    return _onnxruntime(model, images, folder, operators=["Conv", "MatMul", "Gemm"])


def onnxruntime_products_of_7_bits(model: nn.Module, images: Tensor, folder: Path) -> Path:
    """The same with weights of 7 bits, as its documentation advises for processors without VNNI."""
    return _onnxruntime(model, images, folder, operators=["Conv", "MatMul", "Gemm"], reduce_range=True)


def onnxruntime_all(model: nn.Module, images: Tensor, folder: Path) -> Path:
    """ONNX Runtime's static quantization of every operator it knows."""
    return _onnxruntime(model, images, folder, operators=None)


def nncf_default(model: nn.Module, images: Tensor, folder: Path) -> Path:
    """NNCF's post-training quantization of the OpenVINO network, as a file of OpenVINO."""
    import nncf
    import openvino

    path = _float_file(model, images, folder)
    batches = [images[i : i + 1].numpy() for i in range(len(images))]
    network = openvino.Core().read_model(path)
    network = nncf.quantize(network, nncf.Dataset(batches), subset_size=len(batches))
    openvino.save_model(network, folder / "nncf.xml", compress_to_fp16=False)
    return folder / "nncf.xml"


STOCK_FILES: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path], Path]]] = {
    "ort_static_products": ("onnxruntime", onnxruntime_products),
    "ort_static_products_7_bits": ("onnxruntime", onnxruntime_products_of_7_bits),
    "ort_static_all": ("onnxruntime", onnxruntime_all),
    "nncf_default": ("openvino", nncf_default),
}
"""What writes files, each with the runtime that executes them, by the name it has in tables."""


def _opened(name: str) -> Callable[[nn.Module, Tensor, Path], Predict]:
    runtime, write = STOCK_FILES[name]
    return lambda model, images, folder: open_integer(write(model, images, folder), runtime=runtime)


def torchao_xnnpack(model: nn.Module, images: Tensor, folder: Path) -> Predict:
    """The PT2E flow of torchao with the XNNPACK quantizer, a scale an output channel; computed in float."""
    del folder
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    network = _rewritten(model, images)
    example = (images[:2],)
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.no_grad():
        for i in range(0, len(images), _CALIBRATION_BATCH):
            prepared(images[i : i + _CALIBRATION_BATCH])
    converted = convert_pt2e(prepared)
    return lambda x: converted(x)


STOCK: dict[str, Callable[[nn.Module, Tensor, Path], Predict]] = {
    **{name: _opened(name) for name in STOCK_FILES},
    "torchao_xnnpack": torchao_xnnpack,
}
"""All of 8 bits, by the name they have in the table."""


def _onnxruntime(
    model: nn.Module, images: Tensor, folder: Path, operators: list[str] | None, *, reduce_range: bool = False
) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter(
                [{"image": images[i : i + 1].numpy()} for i in range(len(images))]
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    logging.getLogger().setLevel(logging.ERROR)  # a warning for every bias, that it has no channels
    path = _float_file(model, images, folder)
    prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            op_types_to_quantize=operators,
        )
    return quantized


def _float_file(model: nn.Module, images: Tensor, folder: Path) -> Path:
    path = folder / "float.onnx"
    path.write_bytes(trace(_rewritten(model, images), images.shape[-1]).SerializeToString())
    return path


def _rewritten(model: nn.Module, images: Tensor) -> nn.Module:
    """As `pocketvit export` writes it."""
    network = apply_rewrites(frozen_copy(model).double(), size=images.shape[-1])
    return frozen_copy(network)
