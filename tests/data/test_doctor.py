from __future__ import annotations

import json

import numpy as np
from PIL import Image

from pocketvit.data import open_images
from pocketvit.data.doctor import inspect


def finding(report, text):
    found = [finding for finding in report.findings if text in finding.what]
    assert len(found) == 1, [finding.what for finding in report.findings]
    return found[0]


def test_nothing_to_find(folder):
    report = inspect(folder({"train/a": 12, "train/b": 12, "val/a": 2, "val/b": 2}))
    assert report.findings == ()
    assert not report.unusable
    assert (report.train, report.val, report.short_sides) == ((12, 12), (2, 2), (30, 30, 30))
    assert (report.formats, report.modes) == ({"PNG": 28}, {"RGB": 28})


def test_report_as_json(folder):
    root = folder({"a": 12, "b": 12})
    (root / "notes.txt").write_text("x")
    report = json.loads(json.dumps(inspect(root).to_dict()))
    assert report["classes"] == [
        {"name": "a", "train": 12, "val": None},
        {"name": "b", "train": 12, "val": None},
    ]
    assert report["short_side"] == {"min": 30, "median": 30, "max": 30}
    assert report["unusable"] is False
    assert [(found["what"], found["where"]) for found in report["findings"]] == [
        ("1 other file ignored", ["notes.txt"])
    ]


def test_what_stops_a_build_is_an_error(folder, tmp_path):
    for source, text in (
        (tmp_path / "nowhere", "There is nothing"),
        (folder({"a": 3}, tmp_path / "one"), "only one class"),
        (folder({"a": 1, "b": 1}, tmp_path / "single"), "single image"),
    ):
        report = inspect(source)
        assert report.unusable
        assert finding(report, text).severity == "error"
        assert report.findings[0].severity == "error"
        json.dumps(report.to_dict())


def test_too_much_damage_is_told_in_a_whole_sentence(folder):
    root = folder({"a": 3, "b": 3})
    (root / "a/001.png").write_bytes(b"text")
    error = inspect(root).findings[0]
    assert error.severity == "error"
    assert error.what.endswith("cannot be used (16.7%; 5% is allowed)")


def test_damage(folder):
    root = folder({"a": 30, "b": 30})
    (root / "a/003.png").write_bytes(b"text")
    report = inspect(root)
    found = finding(report, "1 image cannot be decoded")
    assert (found.severity, found.where) == ("warning", ("a/003.png: it is text, not an image",))
    assert not report.unusable
    assert inspect(root, max_damaged=0).unusable


def test_copies(folder):
    root = folder({"train/a": 12, "train/b": 12, "val/a": 2, "val/b": 2})
    for source, target in (
        ("train/a/000.png", "val/a/leak.png"),
        ("train/a/001.png", "train/b/both.png"),
        ("train/b/002.png", "train/b/again.png"),
        ("train/a/004.png", "val/b/leak-and-both.png"),
    ):
        (root / target).write_bytes((root / source).read_bytes())
    report = inspect(root)
    assert finding(report, "both in the training and the validation part").where == (
        "train/a/000.png = val/a/leak.png",
        "train/a/004.png = val/b/leak-and-both.png",
    )
    assert finding(report, "in several classes").where == (
        "train/a/001.png = train/b/both.png",
        "train/a/004.png = val/b/leak-and-both.png",
    )
    assert finding(report, "more than once").where == ("train/b/002.png = train/b/again.png",)


def test_class_sizes(folder):
    report = inspect(folder({"train/a": 40, "train/b": 3, "train/c": 20, "val/a": 2, "val/b": 2}))
    assert finding(report, "1 class with fewer than 10 images").where == ("b (3)",)
    assert finding(report, "uneven: 40 images of a, 3 of b").severity == "warning"
    assert finding(report, "1 class without an image in the validation part").where == ("c",)


def test_what_is_left_out(folder, encoded):
    root = folder({"a": 12, "b": 12, "c": 0})
    (root / "loose.png").write_bytes(encoded(0))
    report = inspect(root)
    assert finding(report, "without images").where == ("c/",)
    assert finding(report, "outside the class folders").where == ("loose.png",)


def test_odd_pixels_and_shapes(folder, encoded, picture):
    root = folder({"a": 12, "b": 12})
    sixteen = Image.fromarray(np.full((30, 30), 9000, dtype=np.uint16))
    for name, content in {
        "png.jpg": encoded(900),
        "alpha.png": encoded(picture(901).convert("RGBA")),
        "print.jpg": encoded(picture(902).convert("CMYK"), "JPEG"),
        "deep.png": encoded(sixteen),
        "grey.png": encoded(picture(903).convert("L")),
        "large.png": encoded(picture(904, (400, 500))),
        "strip.png": encoded(picture(905, (200, 40))),
    }.items():
        (root / "a" / name).write_bytes(content)
    report = inspect(root)
    assert finding(report, "ending of another format").where == ("a/png.jpg is PNG",)
    assert finding(report, "transparent").where == ("a/alpha.png",)
    assert finding(report, "CMYK").where == ("a/print.jpg",)
    assert finding(report, "more than 8 bits").where == ("a/deep.png",)
    assert finding(report, "grey, the others in colour").where == ("a/deep.png", "a/grey.png")
    assert finding(report, "from 30 to 400 pixels").where[1] == "a/large.png"
    assert finding(report, "as long as wide").where == ("a/strip.png",)
    assert not report.unusable
    assert {f.severity for f in report.findings} == {"note"}


def test_it_agrees_with_open_images(folder):
    root = folder({"a": 12, "b": 12})
    assert not inspect(root).unusable
    open_images(root)
    for i in range(3):
        (root / f"a/00{i}.png").write_bytes(b"")
    report = inspect(root)
    assert report.unusable
    assert "3 of 24 images" in report.findings[0].what


def test_digits_are_in_order():
    report = inspect("digits")
    assert report.findings == ()
    assert report.val is None
