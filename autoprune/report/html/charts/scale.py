"""Values -> positions: linear and logarithmic scales with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.report.html.numbers import MINUS, amount

Kind = Literal["fraction", "ms", "bytes", "count", "value"]

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_DECADE_MARKS = ((1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
_FEW = 3
_LEAST, _GREATEST = 1e-200, 1e200


@dataclass(frozen=True)
class Scale:
    """A range and whether it is logarithmic; `at` gives 0 at its low end and 1 at its high end."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of a value; it lies outside 0..1 where the value lies outside the range."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        low = math.log(self.low)
        return (math.log(max(value, self.low / 1e6)) - low) / (math.log(self.high) - low)

    def holds(self, value: float) -> bool:
        """Tell whether a value lies in the range."""
        return self.low <= value <= self.high

    def clamp(self, value: float) -> float:
        """Return the nearest value in the range."""
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Axis:
    """A scale with a title and the kind of its values; fractions are drawn in percent."""

    title: str
    scale: Scale
    kind: Kind = "value"

    def text(self, value: float) -> str:
        """Return the text of a tick."""
        if self.kind in ("bytes", "count"):
            return _size(value) if self.kind == "bytes" else amount(value, exact=True)
        return f"{value:.10g}".replace("-", MINUS)

    def live(self) -> dict[str, Any]:
        """Return the axis as plain JSON for the interactive chart."""
        low, high = brief(self.scale.low), brief(self.scale.high)
        return {
            "title": self.title,
            "low": low,
            "high": high,
            "log": self.scale.log,
            "kind": self.kind,
            "ticks": [brief(value) for value in ticks(self.scale) if low <= value <= high],
        }


def _size(value: float) -> str:
    text = amount(value, exact=True)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def brief(value: float) -> float:
    """Return a value to six significant digits: more cannot be seen."""
    return float(f"{bounded(value):.6g}")


def scale_of(values: Iterable[float], *, log: bool = False, pad: float = 0.06) -> Scale:
    """Return a scale that holds all values with some room; a logarithmic one only where all are positive.

    It ends at magnitudes of 1e200, and takes what is below 1e-200 for 0 or, a logarithmic one, for 1e-200: ratios and
    differences of what a crafted document may hold would be no finite numbers.
    """
    found = [bounded(v) for v in values if math.isfinite(v)]
    if not found:
        return Scale(0.0, 1.0)
    low, high = min(found), max(found)
    if log and low > 0:
        low, high = max(low, _LEAST), max(high, _LEAST)
        room = max((math.log(high) - math.log(low)) * pad, 0.02)
        return Scale(low * math.exp(-room), high * math.exp(room), log=True)
    low, high = (v if abs(v) >= _LEAST else 0.0 for v in (low, high))
    room = (high - low) * pad or abs(high) * pad or 1.0
    return Scale(low - room, high + room)


def bounded(value: float) -> float:
    """Return the nearest value whose magnitude charts can draw."""
    return min(max(value, -_GREATEST), _GREATEST)


def ticks(scale: Scale, most: int = 6) -> list[float]:
    """Return round values within a scale, about `most` at the most."""
    if scale.log:
        for marks in _DECADE_MARKS:
            found = _decades(scale, marks)
            if _FEW <= len(found) <= most:
                return found
    return _even(scale, most)


def _decades(scale: Scale, marks: tuple[float, ...]) -> list[float]:
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    every = max(1, (last - first) // 6)
    found = [float(f"{m}e{e}") for e in range(first, last + 1, every) for m in marks]
    return [value for value in found if scale.holds(value)]


def _even(scale: Scale, most: int) -> list[float]:
    span = scale.high - scale.low
    rough = span / most
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(s * base for s in _STEPS if s * base >= rough * (1 - 1e-9))
    start = math.ceil(scale.low / step)
    found = [round(k * step, 12) if abs(step) > 1e-9 else k * step for k in range(start, start + 2 * most)]
    return [value for value in found if scale.holds(value)]
