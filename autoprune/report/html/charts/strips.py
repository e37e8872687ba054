"""Units kept and removed of each group -> strips, one a group: filled where a unit stays, outlined where it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from autoprune.report.html.charts.svg import drawing, element, label, number, text

_WIDTH, _STEP, _HEIGHT = 620.0, 18.0, 12.0
_LETTER, _LONGEST, _VALUE = 6.4, 26, 110.0
_WIDEST_UNIT = 10.0


@dataclass(frozen=True)
class Strip:
    """One group: a character a unit, 1 where it stays."""

    name: str
    bits: str

    @property
    def value(self) -> str:
        """How many units stay, in words."""
        return f"{self.bits.count('1')} of {len(self.bits)}"


@dataclass(frozen=True)
class StripChart:
    """Strips from top to bottom; a unit is as wide in each of them."""

    strips: Sequence[Strip]
    description: str

    def svg(self) -> str:
        """Return the static chart."""
        left = 14 + _LETTER * max((min(len(s.name), _LONGEST) for s in self.strips), default=4)
        widest = max((len(s.bits) for s in self.strips), default=1)
        unit = min(_WIDEST_UNIT, (_WIDTH - left - _VALUE) / max(widest, 1))
        parts: list[str] = []
        kept: list[str] = []
        for index, strip in enumerate(self.strips):
            y = 4 + _STEP * index
            end = left + unit * len(strip.bits)
            parts.append(label(left - 8, y + 10, strip.name, class_="tick end"))
            parts.append(element("rect", x=left, y=y, width=unit * len(strip.bits), height=_HEIGHT, class_="gone"))
            parts.append(text(end + 8, y + 10, strip.value, class_="tick"))
            kept += [_box(left + unit * a, left + unit * b, y, gap=unit > 4) for a, b in _runs(strip.bits, unit > 4)]
        parts.append(element("path", d="".join(kept), class_="area s-member"))
        return drawing(_WIDTH, 8 + _STEP * len(self.strips), self.description, *parts)


def _runs(bits: str, apart: bool) -> list[tuple[int, int]]:
    """Return (first, after the last) of kept units; `apart` gives each a run of its own."""
    if apart:
        return [(i, i + 1) for i, bit in enumerate(bits) if bit == "1"]
    found, start = [], 0
    for bit, same in groupby(bits):
        length = len(list(same))
        if bit == "1":
            found.append((start, start + length))
        start += length
    return found


def _box(x1: float, x2: float, y: float, *, gap: bool) -> str:
    inner = 0.6 if gap else 0.0
    return f"M{number(x1 + inner)} {number(y + 1)}H{number(x2 - inner)}V{number(y + _HEIGHT - 1)}H{number(x1 + inner)}Z"
