"""Points with intervals -> scatter chart; named points keep clear of each other's names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.report.html.charts.frame import Frame
from autoprune.report.html.charts.scale import Axis, brief
from autoprune.report.html.charts.svg import drawing, element, label, marker, number, shortened, titled

_LETTER, _LINE = 6.6, 13.0
_NAME_LENGTH = 20
_MOST_TITLES = 60
_DOTS = ("circle", "dot")


Group = Literal["models", "infeasible", "controls", "candidates"]


@dataclass(frozen=True)
class Mark:
    """A point in the units of the axes; its intervals are (low, high), `id` is the model's where it is one."""

    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    title: str = ""
    name: str = ""
    id: str = ""

    def live(self) -> list[Any]:
        """Return the point as plain JSON: x, y, and where it has them its intervals, title and id."""
        point = [brief(self.x), brief(self.y)]
        if not (self.x_range or self.y_range or self.title):
            return point
        ranges = [None if r is None else [brief(v) for v in r] for r in (self.x_range, self.y_range)]
        return [*point, *ranges, "" if self.id else self.title, self.id, self.name]


@dataclass(frozen=True)
class Series:
    """Points that look alike.

    Args:
        label: What the legend calls them.
        css: Class that gives the colour.
        shape: A name in `SHAPES`.
        marks: The points.
        group: What a reader can switch on and off.
    """

    label: str
    css: str
    shape: str
    marks: Sequence[Mark]
    group: Group = "models"


@dataclass(frozen=True)
class ScatterChart:
    """Points outside the axes are left out, intervals end at the frame.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
        series: Later ones lie on top.
        description: What a screen reader says.
        diagonal: Whether to draw where both coordinates are equal.
    """

    x: Axis
    y: Axis
    series: Sequence[Series]
    description: str
    diagonal: bool = False

    def svg(self) -> str:
        """Return the static chart."""
        frame = Frame(self.x, self.y)
        parts = [frame.draw()]
        if self.diagonal:
            low, high = max(self.x.scale.low, self.y.scale.low), min(self.x.scale.high, self.y.scale.high)
            if low < high:
                ends = (number(v) for v in (frame.px(low), frame.py(low), frame.px(high), frame.py(high)))
                parts.append(element("path", d="M{} {}L{} {}".format(*ends), class_="guide"))
        parts += [_series(frame, one) for one in self.series]
        parts.append(_names(frame, [m for one in self.series for m in one.marks if frame.holds(m.x, m.y)]))
        return drawing(frame.width, frame.height, self.description, *parts)

    def live(self) -> dict[str, Any]:
        """Return the same data as plain JSON."""
        series = [
            {
                "label": one.label,
                "css": one.css,
                "shape": one.shape,
                "group": one.group,
                "points": [m.live() for m in one.marks if self.x.scale.holds(m.x) and self.y.scale.holds(m.y)],
            }
            for one in self.series
            if one.marks
        ]
        return {
            "type": "scatter",
            "x": self.x.live(),
            "y": self.y.live(),
            "diagonal": self.diagonal,
            "series": series,
            "description": self.description,
        }


def _series(frame: Frame, series: Series) -> str:
    marks = [m for m in series.marks if frame.holds(m.x, m.y)]
    if not marks:
        return ""
    parts = []
    intervals = "".join(_interval(frame, mark) for mark in marks)
    if intervals:
        parts.append(element("path", d=intervals, class_=f"whisker {series.css}"))
    titles = len(marks) <= _MOST_TITLES
    plain = [(frame.px(m.x), frame.py(m.y)) for m in marks if not (m.title and titles)]
    if len(plain) > _MOST_TITLES and series.shape in _DOTS:
        dots = "".join(f"M{number(x)} {number(y)}h0" for x, y in plain)
        parts.append(element("path", d=dots, class_=f"mark dots {series.css}"))
    elif plain:
        parts.append(
            element("path", d="".join(marker(series.shape, x, y, 3) for x, y in plain), class_=f"mark {series.css}")
        )
    for mark in marks:
        if mark.title and titles:
            d = marker(series.shape, frame.px(mark.x), frame.py(mark.y))
            parts.append(element("path", titled(mark.title), d=d, class_=f"mark {series.css}"))
    return "".join(parts)


def _interval(frame: Frame, mark: Mark) -> str:
    x, y = number(frame.px(mark.x)), number(frame.py(mark.y))
    path = ""
    if mark.y_range:
        path += f"M{x} {number(frame.py(mark.y_range[0]))}V{number(frame.py(mark.y_range[1]))}"
    if mark.x_range:
        path += f"M{number(frame.px(mark.x_range[0]))} {y}H{number(frame.px(mark.x_range[1]))}"
    return path


def _names(frame: Frame, marks: Sequence[Mark]) -> str:
    """Write the names of points where they cover neither a point nor another name."""
    taken = [(frame.px(m.x) - 6, frame.py(m.y) - 6, 12.0, 12.0) for m in marks]
    parts = []
    for mark in marks:
        if not mark.name:
            continue
        x, y = frame.px(mark.x), frame.py(mark.y)
        width = _LETTER * len(shortened(mark.name, _NAME_LENGTH))
        places = [
            (x + 9, y - _LINE - 1),
            (x + 9, y + 3),
            (x - 9 - width, y - _LINE - 1),
            (x - 9 - width, y + 3),
            (x - width / 2, y - 2 * _LINE - 4),
            (x - width / 2, y + _LINE + 4),
        ]
        box = next(((bx, by, width, _LINE) for bx, by in places if _free(frame, (bx, by, width, _LINE), taken)), None)
        if box:
            taken.append(box)
            parts.append(label(box[0], box[1] + 10, mark.name, _NAME_LENGTH, class_="name"))
    return "".join(parts)


def _free(
    frame: Frame, box: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]
) -> bool:
    x, y, width, height = box
    if x < frame.left or x + width > frame.right + 6 or y < frame.top - 4 or y + height > frame.bottom:
        return False
    return all(x + width <= a or a + w <= x or y + height <= b or b + h <= y for a, b, w, h in taken)
