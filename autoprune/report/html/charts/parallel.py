"""Models by several quantities -> parallel coordinates, each axis with its better end on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.report.html.charts.scale import Axis, brief, ticks
from autoprune.report.html.charts.svg import drawing, element, line, number, shortened, text, titled

_TOP, _BOTTOM, _HEIGHT = 34.0, 286.0, 300.0
_SIDE, _STEP, _SPAN = 60.0, 130.0, 780.0
_FITTING = 7


@dataclass(frozen=True)
class Strand:
    """One model: its value on each axis, None where it has none."""

    title: str
    css: str
    values: Sequence[float | None]
    id: str = ""


@dataclass(frozen=True)
class ParallelChart:
    """Models over several axes.

    Args:
        axes: Each axis, and whether its high end is the better one; the better end is on top.
        strands: Later ones lie on top.
        description: What a screen reader says.
    """

    axes: Sequence[tuple[Axis, bool]]
    strands: Sequence[Strand]
    description: str

    def svg(self) -> str:
        """Return the static chart."""
        step = _SPAN / max(len(self.axes) - 1, 1) if len(self.axes) <= _FITTING else _STEP
        parts = []
        for strand in self.strands:
            points = [(_SIDE + step * i, self._height(i, v)) for i, v in enumerate(strand.values) if v is not None]
            if points:
                path = "L".join(f"{number(x)} {number(y)}" for x, y in points)
                parts.append(element("path", titled(strand.title), d=f"M{path}", class_=f"line {strand.css}"))
        for index, (axis, _) in enumerate(self.axes):
            x = _SIDE + step * index
            parts.append(line(x, _TOP, x, _BOTTOM, "axis"))
            parts.append(text(x, 14, shortened(axis.title, 22), class_="title mid"))
            for value in ticks(axis.scale, 5):
                y = self._height(index, value)
                parts.append(line(x - 3, y, x + 3, y, "axis"))
                parts.append(text(x + 6, y + 4, axis.text(value), class_="tick halo"))
        width = 2 * _SIDE + step * max(len(self.axes) - 1, 1)
        return drawing(width, _HEIGHT, self.description, *parts)

    def live(self) -> dict[str, Any]:
        """Return the same data as plain JSON."""
        strands = [
            {
                "title": one.title,
                "css": one.css,
                "id": one.id,
                "values": [None if v is None else brief(v) for v in one.values],
            }
            for one in self.strands
        ]
        axes = [{**axis.live(), "up": up} for axis, up in self.axes]
        return {"type": "parallel", "axes": axes, "strands": strands, "description": self.description}

    def _height(self, index: int, value: float) -> float:
        axis, up = self.axes[index]
        share = axis.scale.at(axis.scale.clamp(value))
        return _BOTTOM - (share if up else 1 - share) * (_BOTTOM - _TOP)
