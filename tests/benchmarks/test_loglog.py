from importlib import import_module
from xml.etree import ElementTree

import pytest


@pytest.fixture
def loglog():
    return import_module("loglog")


def draw(loglog, *lines):
    series = [
        loglog.Series(name=f"{i}", exponent="1", colour="#000", dashed=i > 0, points=points)
        for i, points in enumerate(lines)
    ]
    panel = loglog.Panel(x_label="x", y_label="y", x_ticks=[1, 100], series=series)
    return ElementTree.fromstring(loglog.loglog_svg("a < b", "", [panel]))


def dots(svg):
    return [
        (float(dot.get("cx")), float(dot.get("cy"))) for dot in svg.iter("{http://www.w3.org/2000/svg}circle")
    ]


def test_powers_are_straight_lines(loglog):
    for exponent in (1, 2):
        points = dots(draw(loglog, [(x, x**exponent) for x in (1, 10, 100)], [(1, 1), (100, 1e4)]))
        (x0, y0), (x1, y1), (x2, y2) = points[:3]
        assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
        assert y1 - y0 == pytest.approx(y2 - y1, abs=0.2)
        assert y2 < y0  # upwards


def test_every_point_lies_in_the_frame_and_ticks_are_decades(loglog):
    svg = draw(loglog, [(1, 0.05), (100, 2000)])
    for x, y in dots(svg):
        assert loglog.LEFT < x < loglog.WIDTH - loglog.RIGHT
        assert loglog.TOP < y < loglog.TOP + loglog.PLOT_HEIGHT
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in {"0.1", "1", "10", "100", "1,000"}] == [
        *("1", "100"),
        *("0.1", "1", "10", "100", "1,000"),
    ]
    assert "a < b" in texts


def test_dashes_are_in_line_and_legend(loglog):
    paths = draw(loglog, [(1, 1), (9, 9)], [(1, 2), (9, 3)]).iter("{http://www.w3.org/2000/svg}path")
    assert sum(path.get("stroke-dasharray") is not None for path in paths) == 2


def test_a_single_point_is_drawn(loglog):
    assert len(dots(draw(loglog, [(64, 3.0)]))) == 1
