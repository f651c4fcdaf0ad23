import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.reporting.format import (
    count,
    duration,
    file_size,
    four_digits,
    integer,
    interval,
    milliseconds,
    model_name,
    percent,
    points,
    setting,
    speed_ratio,
    tiny,
)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (percent, 0.9472, "94.7%"),
        (percent, 1, "100%"),
        (percent, 0.99996, ">99.9%"),
        (percent, 0.9994, "99.9%"),
        (percent, 0.0, "0%"),
        (percent, 0.0001, "<0.1%"),
        (points, 0.0312, "3.1 points"),
        (count, 1234, "1,234"),
        (count, 12_345, "12.3 k"),
        (count, 1_113_871, "1.11 M"),
        (count, 999_960, "1.00 M"),
        (count, 2_030_000_000, "2.03 G"),
        (integer, 50_000, "50,000"),
        (file_size, 512, "512 bytes"),
        (file_size, 4_481_223, "4.48 MB"),
        (file_size, 999_999, "1.00 MB"),
        (milliseconds, 3.2449, "3.24 ms"),
        (milliseconds, 9.999, "10.0 ms"),
        (milliseconds, 0.4821, "0.482 ms"),
        (milliseconds, 321.4, "321 ms"),
        (duration, 0.42, "0.4 s"),
        (duration, 59.4, "59 s"),
        (duration, 185, "3 min 5 s"),
        (duration, 180, "3 min"),
        (duration, 4320, "1 h 12 min"),
        (duration, 7199, "2 h"),
        (four_digits, 0.231145, "0.2311"),
        (tiny, 2.4e-6, "0.0000024"),
        (tiny, 1e-4, "0.0001"),
        (tiny, 3e-12, "3.0e-12"),
        (tiny, 0, "0"),
        (tiny, 120.0, "120"),
        (model_name, "mobilenetv3_large_100", "MobileNetV3-Large"),
        (model_name, "mobilenetv3_small_075", "MobileNetV3-Small 0.75"),
        (model_name, "mobilevitv2_050", "mobilevitv2_050"),
        (setting, None, "none"),
        (setting, True, "yes"),
        (setting, [0.35, 1.0], "0.35, 1"),
        (setting, "cosine", "cosine"),
    ],
)
def test_reads_as(function, value, text):
    assert function(value) == text


@pytest.mark.parametrize(
    "function", [percent, points, count, integer, file_size, milliseconds, duration, tiny]
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "n/a"])
def test_what_is_not_a_number_is_a_dash(function, value):
    assert function(value) == "–"


def test_interval():
    assert interval({"low": 0.9189, "high": 0.9661}) == "91.9% to 96.6%"


@pytest.mark.parametrize(
    ("ours", "baseline", "text"),
    [
        (3.24, 1.80, "1.8× slower than"),
        (1.0, 1.3, "1.3× faster than"),
        (1.06, 1.0, "1.06× slower than"),
        (1.02, 1.0, "about as fast as"),
    ],
)
def test_speed_ratio(ours, baseline, text):
    assert speed_ratio(ours, baseline) == text


@given(st.floats(min_value=1e-6, max_value=1e15))
def test_three_digits_are_close_and_have_a_known_unit(value):
    number, _, unit = count(value).partition(" ")
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    found = float(number.replace(",", "")) * scale
    assert found == pytest.approx(value, rel=0.006, abs=0.5)
