"""Charts of the report: round ticks, values where they belong, names escaped and clear of each other."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.report.html.charts import (
    Axis,
    HeatChart,
    Line,
    LineChart,
    Mark,
    ParallelChart,
    Row,
    RowChart,
    Scale,
    ScatterChart,
    Series,
    Strand,
    scale_of,
    ticks,
)
from autoprune.report.html.charts.heat import level_of
from autoprune.report.html.charts.svg import shortened
from autoprune.report.html.numbers import amount, data_size, duration, figure, signed, times

X = Axis("latency (ms)", scale_of([1.0, 10.0], log=True), "ms")
Y = Axis("accuracy (%)", scale_of([90.0, 99.0]), "fraction")


def scatter(*marks: Mark) -> ScatterChart:
    return ScatterChart(X, Y, [Series("front", "s-member", "circle", marks)], "a chart")


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_linear_ticks_lie_inside_and_are_evenly_spaced(low: float, span: float) -> None:
    scale = Scale(low, low + max(span, abs(low) * 1e-6))
    found = ticks(scale)
    assert 2 <= len(found) <= 7
    assert all(scale.holds(value) for value in found)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


@given(st.floats(1e-6, 1e9), st.floats(1.001, 1e9))
def test_logarithmic_ticks_lie_inside(low: float, ratio: float) -> None:
    scale = Scale(low, low * ratio, log=True)
    found = ticks(scale)
    assert 1 < len(found) <= 9
    assert all(scale.holds(value) for value in found)


@pytest.mark.parametrize("log", [False, True])
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=4))
def test_a_scale_of_any_values_has_finite_ticks_and_places(log: bool, values: list[float]) -> None:
    scale = scale_of(values, log=log)
    assert scale.low < scale.high
    assert all(math.isfinite(tick) and scale.holds(tick) for tick in ticks(scale))
    assert all(0.0 <= scale.at(scale.clamp(value)) <= 1.0 + 1e-9 for value in values)


def test_a_logarithmic_axis_places_ratios_evenly() -> None:
    scale = Scale(1.0, 100.0, log=True)
    assert [scale.at(v) for v in (1.0, 10.0, 100.0)] == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize("values", [[], [3.0], [0.0], [2.0, 2.0], [-1.0, 5.0], [float("nan"), 1.0]])
@pytest.mark.parametrize("log", [True, False])
def test_a_scale_has_room_around_any_values(values: list[float], log: bool) -> None:
    scale = scale_of(values, log=log)
    assert scale.high > scale.low
    assert all(scale.low < value < scale.high for value in values if value == value)


def test_a_point_lies_where_its_values_say() -> None:
    root = ET.fromstring(scatter(Mark(X.scale.high, Y.scale.low, title="corner")).svg())
    path = next(p.get("d") or "" for p in root.iter("path") if p.get("class") == "mark s-member")
    x, y = (float(v) for v in re.findall(r"-?[\d.]+", path)[:2])
    assert (x + 5, y) == pytest.approx((450.0, 278.0))


def test_points_outside_the_axes_are_left_out_and_intervals_end_at_the_frame() -> None:
    root = ET.fromstring(scatter(Mark(2.0, 10.0, title="below"), Mark(2.0, 95.0, None, (0.0, 200.0), "inside")).svg())
    assert [t.text for t in root.iter("title")] == ["inside"]
    whisker = next(p.get("d") or "" for p in root.iter("path") if "whisker" in (p.get("class") or ""))
    assert re.findall(r"-?[\d.]+", whisker)[1:] == ["278", "26"]


def test_names_of_neighbours_do_not_cover_each_other() -> None:
    marks = [Mark(2.0 + 0.02 * i, 95.0, title=f"m{i}", name=f"model {i}") for i in range(4)]
    root = ET.fromstring(scatter(*marks).svg())
    boxes = [(float(t.get("x") or 0), float(t.get("y") or 0)) for t in root.iter("text") if t.get("class") == "name"]
    assert boxes
    for index, (x, y) in enumerate(boxes):
        assert all(abs(y - b) >= 13 or abs(x - a) >= 40 for a, b in boxes[:index])


HOSTILE = "<b>&\"'</svg>\x00"
CHARTS = {
    "scatter": scatter(Mark(2.0, 95.0, title=HOSTILE, name=HOSTILE)),
    "lines": LineChart(X, Y, [Line(HOSTILE, "s-member", "circle", [(1.0, 91.0), (5.0, 95.0)], stepped=True)], HOSTILE),
    "rows": RowChart(X, [Row(HOSTILE, HOSTILE, "s-member", (1.0, 5.0), (1, 2, 3, 4, 5), (2.0,))], HOSTILE),
    "heat": HeatChart([HOSTILE], [HOSTILE, "b"], [[0.0, 1.0]], HOSTILE),
    "parallel": ParallelChart([(X, False), (Y, True)], [Strand(HOSTILE, "s-member", [2.0, None])], HOSTILE),
}


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_is_well_formed_and_escapes_names(name: str) -> None:
    svg = CHARTS[name].svg()
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert "b" not in {element.tag for element in root.iter()}
    assert "<b>" not in svg


def test_heat_strips_join_neighbours_of_one_colour() -> None:
    root = ET.fromstring(HeatChart(["m"], list("abcd"), [[0.5, 0.5, 0.5, 0.9]], "strips").svg())
    strips = {p.get("class"): p.get("d") for p in root.iter("path")}
    assert [css for css in strips if css] == ["heat q5", "heat q9"]
    assert (strips["heat q5"] or "").count("M") == 1


@pytest.mark.parametrize(("share", "level"), [(0.0, 0), (0.001, 1), (0.25, 2), (0.5, 5), (1.0, 10)])
def test_only_nothing_removed_has_the_colour_of_nothing(share: float, level: int) -> None:
    assert level_of(share) == level


def test_long_names_lose_their_middle() -> None:
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert shortened("abc", 5) == "abc"


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (figure(0.0), "0"),
        (figure(-0.01234), "−0.0123"),
        (figure(123456.0), "123456"),
        (figure(1.5e9), "1.50e+09"),
        (signed(-0.04), "0.0"),
        (signed(0.26), "+0.3"),
        (amount(999_950), "1.00 M"),
        (amount(174_970), "175 k"),
        (amount(12), "12"),
        (data_size(12), "12 B"),
        (data_size(704_480), "704 kB"),
        (duration(59.4), "59.4 s"),
        (duration(148.9), "2 min 29 s"),
        (duration(7260), "2 h 1 min"),
        (times(4.123), "4.12x"),
        (times(15.2), "15.2x"),
        (times(250), "250x"),
    ],
)
def test_numbers_are_written_short(shown: str, wanted: str) -> None:
    assert shown == wanted
