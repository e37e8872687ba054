"""Labelled rows on one axis -> bars, boxes of quantiles, and dots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.report.html.charts.scale import Axis, brief, ticks
from autoprune.report.html.charts.svg import drawing, element, label, line, marker, number, text

_WIDTH, _STEP, _TOP, _BOTTOM = 460.0, 20.0, 6.0, 40.0
_RIGHT = 70.0


@dataclass(frozen=True)
class Row:
    """One row; all values in the unit of the axis.

    Args:
        label: Its name, at the left.
        value: Its figure, at the right.
        css: Class that gives the colour.
        bar: (from, to) of a filled bar.
        quantiles: 5%, 25%, 50%, 75% and 95%, or (low, middle, high) of an interval.
        dots: Single values.
        shape: Mark of the dots and of the middle of an interval.
    """

    label: str
    value: str
    css: str
    bar: tuple[float, float] | None = None
    quantiles: tuple[float, ...] = ()
    dots: tuple[float, ...] = ()
    shape: str = "circle"


@dataclass(frozen=True)
class RowChart:
    """Rows from top to bottom on one axis."""

    x: Axis
    rows: Sequence[Row]
    description: str

    def svg(self) -> str:
        """Return the static chart."""
        left = 14 + 6.4 * max((min(len(row.label), 26) for row in self.rows), default=4)
        height = _TOP + _STEP * len(self.rows) + _BOTTOM
        bottom, scale = height - _BOTTOM, self.x.scale

        def px(value: float) -> float:
            return left + scale.at(scale.clamp(value)) * (_WIDTH - _RIGHT - left)

        marks = ticks(scale, 4)
        grid = "".join(f"M{number(px(v))} {number(_TOP)}V{number(bottom)}" for v in marks)
        parts = [element("path", d=grid, class_="grid")] if grid else []
        parts.append(line(left, bottom, _WIDTH - _RIGHT, bottom, "axis"))
        parts += [text(px(v), bottom + 15, self.x.text(v), class_="tick mid") for v in marks]
        parts.append(text(_WIDTH - _RIGHT, height - 7, self.x.title, class_="title end"))
        for index, row in enumerate(self.rows):
            y = _TOP + _STEP * (index + 0.5)
            parts.append(label(left - 8, y + 4, row.label, class_="tick end"))
            parts.append(text(_WIDTH, y + 4, row.value, class_="tick end"))
            parts += _shapes(row, px, y)
        return drawing(_WIDTH, height, self.description, *parts)

    def live(self) -> dict[str, Any]:
        """Return the same data as plain JSON."""
        rows = [
            {
                "label": row.label,
                "value": row.value,
                "css": row.css,
                "shape": row.shape,
                "bar": None if row.bar is None else [brief(v) for v in row.bar],
                "quantiles": [brief(v) for v in row.quantiles],
                "dots": [brief(v) for v in row.dots],
            }
            for row in self.rows
        ]
        return {"type": "rows", "x": self.x.live(), "rows": rows, "description": self.description}


def _shapes(row: Row, px: Callable[[float], float], y: float) -> list[str]:
    found = []
    spread = [px(v) for v in row.quantiles]
    if len(spread) == len(("5%", "25%", "50%", "75%", "95%")):
        low, q1, middle, q3, high = spread
        found.append(line(low, y, high, y, f"whisker {row.css}"))
        found.append(element("rect", x=q1, y=y - 5, width=max(q3 - q1, 1.0), height=10, class_=f"area soft {row.css}"))
        found.append(line(middle, y - 6, middle, y + 6, f"line {row.css}"))
    elif spread:
        found.append(line(spread[0], y, spread[-1], y, f"whisker {row.css}"))
        found.append(element("path", d=marker(row.shape, spread[len(spread) // 2], y, 4.5), class_=f"mark {row.css}"))
    if row.dots:
        path = "".join(marker(row.shape, px(v), y, 3.5) for v in row.dots)
        found.append(element("path", d=path, class_=f"mark {row.css}"))
    if row.bar:
        x1, x2 = sorted(px(v) for v in row.bar)
        found.append(element("rect", x=x1, y=y - 6, width=max(x2 - x1, 0.5), height=12, class_=f"area {row.css}"))
    return found
