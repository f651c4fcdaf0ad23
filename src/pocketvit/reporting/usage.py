"""How to use the exported file: the command, and a snippet for ONNX Runtime with its own preprocessing."""

from __future__ import annotations

from pocketvit.backbones.preprocessing import Preprocessing

__all__ = ["onnx_snippet", "predict_command"]


def predict_command(file: str) -> str:
    """The command that classifies a picture with the exported `file`."""
    return f"pocketvit predict {file} photo.jpg"


def onnx_snippet(file: str, preprocessing: Preprocessing) -> str:
    """Python that classifies `photo.jpg` with Pillow, NumPy and ONNX Runtime alone.

    Resizing and cropping follow torchvision's `Resize` and `CenterCrop` to the pixel, so that the answer is
    the one that was measured.
    """
    size, short = preprocessing.size, preprocessing.short_side
    method = preprocessing.interpolation.upper()
    mean, std = list(preprocessing.mean), list(preprocessing.std)
    squashed = preprocessing.crop_mode == "squash"
    lines = [
        "import json, numpy as np, onnxruntime",
        "from PIL import Image, ImageOps",
        "",
        f'session = onnxruntime.InferenceSession("{file}")',
        'image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        f"width = height = {short}  # both sides"
        if squashed
        else f"width, height = [int({short} * side / min(image.size)) for side in image.size]",
        f"image = image.resize((width, height), Image.Resampling.{method})",
        f"left, top = round((width - {size}) / 2), round((height - {size}) / 2)",
        f"pixels = np.float32(image.crop((left, top, left + {size}, top + {size}))) / 255",
    ]
    if preprocessing.channels == "bgr":
        lines.append("pixels = pixels[..., ::-1]  # this network expects blue, green, red")
    if any(mean) or any(value != 1 for value in std):
        lines.append(f"pixels = (pixels - np.float32({mean})) / np.float32({std})")
    lines += [
        "logits = session.run(None, {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})[0][0]",
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        "print(classes[logits.argmax()])",
    ]
    return "\n".join(lines)
