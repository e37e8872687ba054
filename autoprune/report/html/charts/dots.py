"""Several models under each of several conditions -> rows of marks with intervals on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.report.html.charts.scale import Axis, ticks
from autoprune.report.html.charts.svg import drawing, element, label, line, marker, number, text, titled

_WIDTH, _TOP, _BOTTOM, _RIGHT = 560.0, 6.0, 40.0, 14.0
_MARK, _ROOM = 10.0, 8.0
_LETTER, _LONGEST = 6.4, 26


@dataclass(frozen=True)
class Dot:
    """A value with its interval, in the unit of the axis; `title` is shown while the pointer rests on it."""

    value: float
    css: str
    shape: str
    span: tuple[float, float] | None = None
    title: str = ""


@dataclass(frozen=True)
class DotChart:
    """Rows of (label, marks) from top to bottom on one axis; the marks of a row lie below each other."""

    x: Axis
    rows: Sequence[tuple[str, Sequence[Dot]]]
    description: str

    def svg(self) -> str:
        """Return the static chart."""
        left = 14 + _LETTER * max((min(len(name), _LONGEST) for name, _ in self.rows), default=4)
        heights = [_ROOM + _MARK * max(len(dots), 1) for _, dots in self.rows]
        height = _TOP + sum(heights) + _BOTTOM
        bottom, scale = height - _BOTTOM, self.x.scale

        def px(value: float) -> float:
            return left + scale.at(scale.clamp(value)) * (_WIDTH - _RIGHT - left)

        marks = ticks(scale, 5)
        parts = [element("path", d=f"M{number(px(v))} {number(_TOP)}V{number(bottom)}", class_="grid") for v in marks]
        parts.append(line(left, bottom, _WIDTH - _RIGHT, bottom, "axis"))
        parts += [text(px(v), bottom + 15, self.x.text(v), class_="tick mid") for v in marks]
        parts.append(text(_WIDTH - _RIGHT, height - 7, self.x.title, class_="title end"))
        top = _TOP
        for (name, dots), room in zip(self.rows, heights, strict=True):
            parts.append(label(left - 8, top + room / 2 + 4, name, class_="tick end"))
            for index, dot in enumerate(dots):
                y = top + room / 2 + _MARK * (index - (len(dots) - 1) / 2)
                if dot.span is not None:
                    parts.append(line(px(dot.span[0]), y, px(dot.span[1]), y, f"whisker {dot.css}"))
                path = marker(dot.shape, px(dot.value), y, 4.0)
                told = (titled(dot.title),) if dot.title else ()
                parts.append(element("path", *told, d=path, class_=f"mark {dot.css}"))
            top += room
            parts.append(line(left, top, _WIDTH - _RIGHT, top, "grid"))
        return drawing(_WIDTH, height, self.description, *parts)
