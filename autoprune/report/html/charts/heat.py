"""A matrix of shares -> heat strips, one a row, with the names of rows and columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.report.html.charts.svg import drawing, element, label, number, shortened, text

LEVELS = 10
_LETTER, _CELL_TEXT = 6.4, 22.0
_COLUMN_NAME, _ROW_NAME = 24, 22
_ROOMY = 30
_SLANT = math.radians(55)


@dataclass(frozen=True)
class HeatChart:
    """Shares in 0..1 by row and column; as wide as the columns need, shares are written where there is room."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]
    description: str

    def svg(self) -> str:
        """Return the static strips."""
        count = max(len(self.columns), 1)
        cell = min(40.0, max(13.0, 720.0 / count))
        step = 22.0 if len(self.rows) <= _ROOMY else 12.0
        longest = _LETTER * max((len(shortened(c, _COLUMN_NAME)) for c in self.columns), default=1)
        names = 12 + _LETTER * max((min(len(r), _ROW_NAME) for r in self.rows), default=4)
        left = max(names, longest * math.cos(_SLANT) - cell / 2 + 8)
        bottom = step * len(self.rows) + 14
        parts = [
            label(left - 7, step * (i + 0.5) + 6, n, _ROW_NAME, class_="tick end") for i, n in enumerate(self.rows)
        ]
        if cell >= _CELL_TEXT and step >= _CELL_TEXT:
            parts += [
                _share(left + cell * (j + 0.5), step * (i + 0.5) + 6, value)
                for i, row in enumerate(self.values)
                for j, value in enumerate(row)
            ]
        for j, name in enumerate(self.columns):
            x = left + cell * (j + 0.5)
            turn = f"rotate(-55 {number(x)} {number(bottom)})"
            parts.append(label(x + 4, bottom, name, _COLUMN_NAME, class_="tick end", transform=turn))
        height = bottom + longest * math.sin(_SLANT) + 8
        return drawing(left + cell * count + 8, height, self.description, *self._strips(left, cell, step), *parts)

    def live(self) -> dict[str, Any]:
        """Return the same data as plain JSON, shares in whole percent."""
        return {
            "type": "heat",
            "rows": list(self.rows),
            "columns": list(self.columns),
            "values": [[round(100 * share) for share in row] for row in self.values],
            "description": self.description,
        }

    def _strips(self, left: float, cell: float, step: float) -> list[str]:
        strips: dict[int, list[str]] = {}
        for i, row in enumerate(self.values):
            y = number(step * (i + 0.5) + 2)
            for level, first, last in _runs(row):
                path = f"M{number(left + cell * first)} {y}H{number(left + cell * last)}"
                strips.setdefault(level, []).append(path)
        return [
            element("path", d="".join(strips[level]), class_=f"heat q{level}", stroke_width=step - 3)
            for level in sorted(strips)
        ]


def level_of(share: float) -> int:
    """Return the colour of a share: 0 for none, `LEVELS` for all."""
    return 0 if share <= 0 else max(1, min(LEVELS, round(share * LEVELS)))


def _runs(row: Sequence[float]) -> list[tuple[int, int, int]]:
    """Return (level, first, after the last) of neighbours of one colour."""
    found: list[tuple[int, int, int]] = []
    for j, share in enumerate(row):
        level = level_of(share)
        if found and found[-1][0] == level:
            found[-1] = (level, found[-1][1], j + 1)
        else:
            found.append((level, j, j + 1))
    return found


def _share(x: float, y: float, share: float) -> str:
    css = "cell dark" if level_of(share) >= 6 else "cell"
    return text(x, y, f"{100 * share:.0f}", class_=css)
