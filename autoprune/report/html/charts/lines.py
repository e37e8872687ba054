"""Series over a count -> line chart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.report.html.charts.frame import Frame
from autoprune.report.html.charts.scale import Axis, brief
from autoprune.report.html.charts.svg import drawing, element, marker, number

_MARKED = 40


@dataclass(frozen=True)
class Line:
    """Points (x, y) in ascending x.

    Args:
        label: What the legend calls it.
        css: Class that gives the colour.
        shape: Mark of its points.
        points: At least one.
        stepped: Whether a value holds until the next one.
    """

    label: str
    css: str
    shape: str
    points: Sequence[tuple[float, float]]
    stepped: bool = False


@dataclass(frozen=True)
class LineChart:
    """Lines on two axes; the points of short lines are marked."""

    x: Axis
    y: Axis
    lines: Sequence[Line]
    description: str

    def svg(self) -> str:
        """Return the static chart."""
        frame = Frame(self.x, self.y, height=280.0)
        return drawing(
            frame.width, frame.height, self.description, frame.draw(), *(_line(frame, line) for line in self.lines)
        )

    def live(self) -> dict[str, Any]:
        """Return the same data as plain JSON."""
        series = [
            {
                "label": line.label,
                "css": line.css,
                "shape": line.shape,
                "stepped": line.stepped,
                "points": [[brief(a), brief(b)] for a, b in line.points],
            }
            for line in self.lines
        ]
        return {
            "type": "lines",
            "x": self.x.live(),
            "y": self.y.live(),
            "series": series,
            "description": self.description,
        }


def _line(frame: Frame, line: Line) -> str:
    points = [(number(frame.px(a)), number(frame.py(b))) for a, b in line.points]
    (first_x, first_y), *rest = points
    path = f"M{first_x} {first_y}" + "".join(f"H{a}V{b}" if line.stepped else f"L{a} {b}" for a, b in rest)
    shown = line.points[:: max(1, len(points) // 8)] if len(points) > _MARKED else line.points
    marks = "".join(marker(line.shape, frame.px(a), frame.py(b), 3.5) for a, b in shown)
    return element("path", d=path, class_=f"line {line.css}") + element("path", d=marks, class_=f"mark {line.css}")
