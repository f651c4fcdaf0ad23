"""Any image file to one form: upright, 8 bits, three channels RGB; or a clear reason why not.

What is done, in this order:

* the first frame of an animation (GIF, WebP, APNG);
* the rotation that the camera noted (EXIF orientation);
* 16-bit grey: v / 257; 32-bit and float grey: see `_eight_bit`;
* transparency (alpha channel, transparent palette entry or colour) on white;
* CMYK, YCbCr, palette and black-and-white to RGB.

Colour profiles are ignored, as by every other training library. A file that is cut short, is no image or
announces more pixels than `PIL.Image.MAX_IMAGE_PIXELS` is refused: never half an image, never grey filling.
"""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pocketvit.core.errors import DamagedImageError

__all__ = ["IMAGE_SUFFIXES", "Decoded", "decode", "decode_image", "read_file"]

# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".dib",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".heic", ".heif",
)
# fmt: on
"""Endings by which a file counts as an image. HEIC is not decoded, but it is a photo to its owner: it is here
so that it is reported and not passed over."""

_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

# `warnings.catch_warnings` changes the whole process, so only one thread at a time may be inside; what is
# inside (reading headers) holds the interpreter lock anyway. The decoding itself runs in parallel.
_HEADERS = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """An image and what it was stored as."""

    image: Image.Image
    """RGB, upright, 8 bits."""
    format: str
    """Pillow's name of the file format, such as `"JPEG"`."""
    mode: str
    """Pillow's name of the stored pixel format, such as `"RGB"`, `"L"`, `"CMYK"`."""


def decode_image(source: Path | bytes, *, name: str = "", at_least: int | None = None) -> Image.Image:
    """The image in a file, or in the bytes of one, as upright 8-bit RGB.

    Args:
        name: what to call the image in an error; a path names itself.
        at_least: allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, which is several times faster,
            as long as its short side keeps this many pixels.

    Raises:
        DamagedImageError: the file cannot be read or is not a whole image; says which and why.
    """
    return decode(source, name=name, at_least=at_least).image


def decode(source: Path | bytes, *, name: str = "", at_least: int | None = None) -> Decoded:
    """Like `decode_image`, with the stored format beside the image."""
    if isinstance(source, Path):
        name = name or str(source)
        content = read_file(source, name=name)
    else:
        name = name or "image"
        content = source
    try:
        return _decode(content, at_least)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen unrelated types on damaged input
        raise DamagedImageError(f"{name}: {_reason(error, content)}") from error


def read_file(path: Path, *, name: str) -> bytes:
    """The bytes of an image file.

    Raises:
        DamagedImageError: it cannot be read; says why.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        broken = path.is_symlink()
        reason = f"broken link to {path.readlink()}" if broken else "there is no such file"
        raise DamagedImageError(f"{name}: {reason}") from None
    except OSError as error:
        raise DamagedImageError(f"{name}: cannot be read: {error.strerror}") from None


def _decode(content: bytes, at_least: int | None) -> Decoded:
    with _HEADERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata; what matters is whether the pixels decode
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content))
        stored_format, stored_mode = image.format or "", image.mode
        if at_least is not None:
            image.draft(None, _draft_size(image.size, at_least))
        image.getexif()
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return Decoded(image=_to_rgb(image), format=stored_format, mode=stored_mode)


def _draft_size(size: tuple[int, int], at_least: int) -> tuple[int, int]:
    factor = at_least / min(size)
    return (size[0], size[1]) if factor >= 1 else (round(size[0] * factor), round(size[1] * factor))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        straight = image.convert("LA") if image.mode == "La" else image
        colour = straight.convert("RGBA")
        white = Image.new("RGBA", colour.size, "white")
        return Image.alpha_composite(white, colour).convert("RGB")
    return image.convert("RGB")


def _eight_bit(grey: np.ndarray) -> np.ndarray:
    """Grey of more than 8 bits to 0..255, without clipping.

    16-bit integers use their whole range (65535 is white). For the rest the file does not say what white is:
    floats within [0, 1] and within [0, 255] keep that meaning, integers up to 65535 are taken for 16-bit, and
    anything else is stretched from its smallest to its largest value.
    """
    values = grey.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers")
    low, high = values.min(), values.max()
    if grey.dtype.kind != "f" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif grey.dtype.kind == "f" and low >= 0 and high <= 255:
        low, high = 0.0, 1.0 if high <= 1 else 255.0
    return np.round((values - low) * (255 / max(high - low, 1e-300))).astype(np.uint8)


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "it is empty (0 bytes)"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it announces more than {Image.MAX_IMAGE_PIXELS} pixels (a decompression bomb?)"
    if isinstance(error, UnidentifiedImageError):
        return _what_it_is(content)
    text = str(error) or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"it is cut short ({text})"
    return f"it cannot be decoded ({text})"


def _what_it_is(content: bytes) -> str:
    head = content[:512]
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIC photos cannot be read: convert them to JPEG or PNG first"
    if b"<svg" in head:
        return "SVG drawings cannot be read: convert them to PNG first"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not an image in a known format, or its beginning is damaged"
    return "it is text, not an image"
