from __future__ import annotations

import contextlib
import errno
import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pocketvit.core.errors import DamagedImageError
from pocketvit.data.decode import decode, decode_image


def pixels(source):
    image = decode_image(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_of_size(width, height, *, colour=2):
    """A PNG that announces a size and holds one byte of pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def test_rgb_comes_back_unchanged(picture, encoded):
    assert np.array_equal(pixels(encoded(0)), np.asarray(picture(0)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(picture, encoded, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(picture(0))
    expected = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright),
    }[orientation]
    assert np.array_equal(pixels(encoded(0, exif=exif)), expected)


def test_orientation_of_a_jpeg_is_applied_once(picture, encoded):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(encoded(0, "JPEG", exif=exif))
    assert image.size == (30, 40)
    assert decode_image(encoded(image, "JPEG", exif=image.getexif())).size == (30, 40)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_has_three_equal_channels(picture, encoded, mode):
    grey = picture(0).convert(mode)
    expected = np.asarray(grey.convert("L"))
    assert np.array_equal(pixels(encoded(grey)), np.stack([expected] * 3, axis=2))


def test_transparent_is_white_and_half_transparent_is_half_white(encoded):
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(10, 20, 30, 255), (10, 20, 30, 0), (10, 20, 30, 128)])
    found = pixels(encoded(rgba))[0].astype(int)
    assert found[0].tolist() == [10, 20, 30]
    assert found[1].tolist() == [255, 255, 255]
    expected = np.array([10, 20, 30]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(found[2] - expected).max() <= 1


def test_grey_with_alpha_is_composited_on_white(encoded):
    la = Image.new("LA", (2, 1))
    la.putdata([(40, 255), (40, 0)])
    assert pixels(encoded(la))[0].tolist() == [[40, 40, 40], [255, 255, 255]]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palette(encoded, format):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 140, 50])
    image.putdata([0, 1])
    assert pixels(encoded(image, format))[0].tolist() == [[200, 10, 20], [30, 140, 50]]
    assert pixels(encoded(image, format, transparency=1))[0].tolist() == [[200, 10, 20], [255, 255, 255]]


def test_palette_with_an_opacity_per_entry(encoded):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 140, 50])
    image.putdata([0, 1])
    assert pixels(encoded(image, transparency=b"\xff\x00"))[0].tolist() == [[200, 10, 20], [255, 255, 255]]


def test_one_transparent_colour(encoded):
    image = Image.new("RGB", (2, 1))
    image.putdata([(1, 2, 3), (9, 9, 9)])
    assert pixels(encoded(image, transparency=(9, 9, 9)))[0].tolist() == [[1, 2, 3], [255, 255, 255]]


def test_cmyk_tiff_and_inverted_adobe_jpeg_have_the_same_colours(encoded):
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # cyan
    jpeg = encoded(cmyk, "JPEG", quality=95)
    assert b"Adobe" in jpeg  # whose CMYK values are stored inverted
    for content in (encoded(cmyk, "TIFF"), jpeg):
        assert np.abs(pixels(content).astype(int) - [0, 255, 255]).max() <= 3


@pytest.mark.parametrize(("format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_16_bit_grey_is_scaled_not_clipped(encoded, format, dtype):
    values = np.array([[0, 257, 300, 32896, 65535]], dtype=dtype)
    assert pixels(encoded(Image.fromarray(values), format))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


def test_16_bit_pgm():
    body = struct.pack(">3H", 0, 32896, 65535)
    assert pixels(b"P5 3 1 65535\n" + body)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # floats in [0, 1]
        ([0.0, 100.0, 200.0], [0, 100, 200]),  # floats in [0, 255]
        ([-1.0, 0.0, 3.0], [0, 64, 255]),  # any other floats
    ],
)
def test_float_grey(encoded, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert pixels(encoded(image, "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 257, 65535], [0, 1, 255]), ([-(2**31), 0, 2**31 - 1], [0, 128, 255])]
)
def test_32_bit_grey(encoded, values, expected):
    image = Image.fromarray(np.array([values], dtype=np.int32))
    assert pixels(encoded(image, "TIFF"))[0, :, 0].tolist() == expected


def test_flat_32_bit_grey_is_black(encoded):
    image = Image.fromarray(np.full((2, 2), 1e6, dtype=np.float32))
    assert pixels(encoded(image, "TIFF")).max() == 0


def test_values_that_are_no_numbers_are_damage(encoded):
    image = Image.fromarray(np.array([[np.nan, 1.0]], dtype=np.float32))
    with pytest.raises(DamagedImageError, match="not numbers"):
        decode_image(encoded(image, "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(encoded, format):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    content = encoded(first, format, save_all=True, append_images=[second], duration=50)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 2
    assert np.abs(pixels(content).astype(int) - [250, 0, 0]).max() <= 6


def test_one_pixel(encoded):
    assert pixels(encoded(Image.new("RGB", (1, 1), (7, 8, 9)))).tolist() == [[[7, 8, 9]]]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_short_is_refused(encoded, format):
    content = encoded(3, format)
    assert decode(content).format == format
    with pytest.raises(DamagedImageError, match=r"^cat\.x: it "):
        decode_image(content[: len(content) // 2], name="cat.x")


def test_reasons(tmp_path, encoded):
    for name, content, reason in [
        ("empty.jpg", b"", "it is empty"),
        ("text.jpg", "nur Text, größer".encode(), "it is text"),
        ("drawing.jpg", b"<?xml version='1.0'?><svg xmlns='x'/>", "SVG drawings cannot be read"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(256)), "convert them to JPEG"),
        ("noise.jpg", bytes(range(255, 0, -1)), "not an image in a known format"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DamagedImageError, match=reason) as caught:
            decode_image(path)
        assert str(path) in caught.value.message


@pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow only warns about the first
def test_a_decompression_bomb_is_refused(side):
    with pytest.raises(DamagedImageError, match="decompression bomb"):
        decode_image(png_of_size(side, side))


def test_a_bomb_is_refused_when_warnings_are_off():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DamagedImageError, match="decompression bomb"):
            decode_image(png_of_size(10_000, 10_000))


def test_missing_file_broken_link_and_folder(tmp_path):
    with pytest.raises(DamagedImageError, match="there is no such file"):
        decode_image(tmp_path / "missing.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DamagedImageError, match="broken link to"):
        decode_image(tmp_path / "link.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DamagedImageError, match="cannot be read"):
        decode_image(tmp_path / "folder.png")


def test_permission_denied(tmp_path, encoded, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the administrator, who may run this, is never refused
    with pytest.raises(DamagedImageError, match="cannot be read: Permission denied"):
        decode_image(tmp_path / "secret.png")


def test_any_file_name(tmp_path, encoded, picture):
    for name in ("größe 猫 🐈.png", "no ending", " .PNG"):
        path = tmp_path / name
        path.write_bytes(encoded(0))
        assert np.array_equal(pixels(path), np.asarray(picture(0)))


def test_stored_format_and_mode_are_told(encoded, picture):
    decoded = decode(encoded(picture(0).convert("CMYK"), "JPEG"))
    assert (decoded.format, decoded.mode, decoded.image.mode) == ("JPEG", "CMYK", "RGB")


def test_a_jpeg_may_be_decoded_smaller(encoded, picture):
    content = encoded(picture(0, (800, 600)), "JPEG")
    assert decode_image(content, at_least=200).size == (400, 300)
    assert decode_image(content, at_least=601).size == (800, 600)
    whole = decode_image(content).resize((400, 300), Image.Resampling.BOX)
    difference = np.asarray(whole).astype(int) - np.asarray(decode_image(content, at_least=200))
    assert np.abs(difference).mean() < 1
    assert decode_image(encoded(picture(0, (800, 600))), at_least=20).size == (800, 600)  # PNG: as it is


def test_threads_leave_the_warning_filters_as_they_were(encoded):
    before = list(warnings.filters)
    content = encoded(0, "JPEG")
    threads = [threading.Thread(target=lambda: [decode_image(content) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_an_image_or_our_error(encoded, picture, format, data):
    content = bytearray(encoded(picture(1, (16, 12)), format))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with contextlib.suppress(DamagedImageError):
        assert decode_image(bytes(content[:end])).mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_give_an_image_or_our_error(content):
    with contextlib.suppress(DamagedImageError):
        assert decode_image(content).mode == "RGB"


def test_path_and_bytes_agree(tmp_path: Path, encoded):
    path = tmp_path / "a.webp"
    path.write_bytes(encoded(5, "WEBP"))
    assert np.array_equal(pixels(path), pixels(path.read_bytes()))
