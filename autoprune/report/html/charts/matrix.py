"""Counts by row and column -> a matrix whose cells tell the counts, shaded by their share of the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoprune.report.html.charts.heat import LEVELS, level_of
from autoprune.report.html.charts.svg import drawing, element, label, number, text
from autoprune.report.html.numbers import MINUS

_CELL, _LETTER, _LONGEST = 24.0, 6.6, 12
_DARK = 6


@dataclass(frozen=True)
class MatrixChart:
    """A square matrix, rows from top to bottom.

    Args:
        names: Of rows and columns.
        counts: Whole numbers; of a difference they have a sign, which is written.
        totals: What each row counts as a whole, for the shading.
        description: For a screen reader.
        signed: Whether it is a difference.
    """

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    totals: Sequence[int]
    description: str
    signed: bool = False

    def svg(self) -> str:
        """Return the static chart; cells of 0 are left empty."""
        longest = _LETTER * max((min(len(n), _LONGEST) for n in self.names), default=1)
        left, top, n = longest + 26, longest + 24, len(self.names)
        boxes: dict[int, list[str]] = {}
        parts = [text(left + _CELL * n / 2, 12, "answer", class_="title mid")]
        turn = f"rotate(-90 10 {number(top + _CELL * n / 2)})"
        parts.append(text(10, top + _CELL * n / 2, "label", class_="title mid", transform=turn))
        for i, name in enumerate(self.names):
            parts.append(label(left - 6, top + _CELL * (i + 0.65), name, _LONGEST, class_="tick end"))
            x = left + _CELL * (i + 0.65)
            slanted = f"rotate(-90 {number(x)} {number(top - 6)})"
            parts.append(label(x, top - 6, name, _LONGEST, class_="tick", transform=slanted))
            for j, count in enumerate(self.counts[i]):
                if count:
                    level = level_of(abs(count) / max(self.totals[i], 1))
                    x, y = left + _CELL * j, top + _CELL * i
                    boxes.setdefault(level, []).append(
                        f"M{number(x)} {number(y)}h{_CELL:.0f}v{_CELL:.0f}h-{_CELL:.0f}z"
                    )
                    css = "cell dark" if level >= _DARK else "cell"
                    parts.append(text(x + _CELL / 2, y + _CELL * 0.66, self._told(count), class_=css))
        shades = [element("path", d="".join(boxes[q]), class_=f"area q{q}") for q in range(LEVELS + 1) if q in boxes]
        frame = element("rect", x=left, y=top, width=_CELL * n, height=_CELL * n, class_="gone")
        return drawing(left + _CELL * n + 6, top + _CELL * n + 6, self.description, *shades, frame, *parts)

    def _told(self, count: int) -> str:
        return f"{count:+d}".replace("-", MINUS) if self.signed else str(count)
