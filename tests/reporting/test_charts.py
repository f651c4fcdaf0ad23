import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pocketvit.reporting.charts import HEIGHT, WIDTH, epoch_ticks, line_chart, value_ticks

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


def draw(points, *, best=None):
    return line_chart(
        "Loss", y_label="nats", series=[("a", "line-a", points)], best=best, text=lambda v: f"{v:g}"
    )


@given(numbers, numbers)
@example(0.0, 5e-324)
@example(1e-12, 3e-12)
def test_value_ticks_enclose_the_range_in_equal_steps(a, b):
    low, high = min(a, b), max(a, b)
    ticks = value_ticks(low, high)
    slack = 1e-6 * max(1, abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 9
    steps = [y - x for x, y in itertools.pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3, abs=1e-11)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.41, 0.92, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0][:7])],
)
def test_value_ticks_are_round(low, high, ticks):
    step = value_ticks(low, high)
    assert step[0] == ticks[0]
    assert step[-1] >= high
    assert set(step) <= {0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}


@given(st.integers(1, 500), st.integers(0, 2000))
def test_epoch_ticks_are_few_whole_and_inside(first, more):
    ticks = epoch_ticks(first, first + more)
    assert 1 <= len(ticks) <= 15
    assert all(first <= tick <= first + more for tick in ticks)
    assert ticks == sorted(set(ticks))


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=60))
def test_everything_is_drawn_inside_the_chart(values):
    chart = draw(list(enumerate(values, start=1)), best=1)
    assert chart is not None
    pairs = [part.split() for part in chart.lines[0].path.removeprefix("M").split("L")]
    assert len(pairs) == len(values)
    assert all(chart.left <= float(x) <= chart.right for x, _ in pairs)
    assert all(chart.top - 0.1 <= float(y) <= chart.bottom + 0.1 for _, y in pairs)
    assert 0 < chart.left < chart.right < WIDTH
    assert 0 < chart.top < chart.bottom < HEIGHT


def test_higher_is_up_and_later_is_right():
    chart = draw([(1, 1.0), (2, 3.0)])
    (x1, y1, _), (x2, y2, _) = chart.lines[0].dots
    assert x2 > x1
    assert y2 < y1


def test_a_value_that_is_not_finite_leaves_a_gap():
    chart = draw([(1, 1.0), (2, float("nan")), (3, float("inf")), (4, 2.0)])
    assert len(chart.lines[0].dots) == 2
    assert "nan" not in chart.lines[0].path


def test_nothing_to_draw():
    assert draw([]) is None
    assert draw([(1, float("nan"))]) is None


def test_the_best_epoch_stands_over_its_point():
    chart = draw([(1, 3.0), (2, 1.0), (3, 2.0)], best=2)
    assert chart.best.at == chart.lines[0].dots[1][0]
    assert chart.best.text == "best epoch: 2"
    assert draw([(1, 3.0)], best=7).best is None


def test_many_epochs_are_a_line_without_dots():
    assert draw([(e, float(e)) for e in range(1, 301)]).lines[0].dots == []


@pytest.mark.parametrize("value", [0.0, 0.94, 1.0])
def test_the_axis_of_a_fraction_stays_between_0_and_1(value):
    series = [("a", "line-a", [(1, value)])]
    chart = line_chart("Accuracy", y_label="%", series=series, best=None, text=lambda v: f"{v:g}", most=1)
    marks = [float(tick.text) for tick in chart.y_ticks]
    assert 0 <= min(marks) <= value <= max(marks) <= 1
    assert len(marks) >= 2
