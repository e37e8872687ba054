"""Two axes -> the frame of a chart: grid, ticks, titles, and positions of values in it."""

from __future__ import annotations

from dataclasses import dataclass

from autoprune.report.html.charts.scale import Axis, ticks
from autoprune.report.html.charts.svg import element, line, number, text

WIDTH, HEIGHT = 460.0, 320.0


@dataclass(frozen=True)
class Frame:
    """The rectangle that values are drawn in.

    Args:
        x: The horizontal axis.
        y: The vertical axis.
        width: Of the whole figure.
        height: Of the whole figure.
        left: Room for the ticks of `y`.
    """

    x: Axis
    y: Axis
    width: float = WIDTH
    height: float = HEIGHT
    left: float = 52.0

    @property
    def right(self) -> float:
        """Right edge."""
        return self.width - 10.0

    @property
    def top(self) -> float:
        """Upper edge."""
        return 26.0

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.height - 42.0

    def px(self, value: float) -> float:
        """Return the horizontal position of a value, within the frame."""
        return self.left + self.x.scale.at(self.x.scale.clamp(value)) * (self.right - self.left)

    def py(self, value: float) -> float:
        """Return the vertical position of a value, within the frame."""
        return self.bottom - self.y.scale.at(self.y.scale.clamp(value)) * (self.bottom - self.top)

    def holds(self, x: float, y: float) -> bool:
        """Tell whether a point lies inside."""
        return self.x.scale.holds(x) and self.y.scale.holds(y)

    def draw(self) -> str:
        """Return grid, ticks and titles."""
        across, up = ticks(self.x.scale), ticks(self.y.scale)
        grid = [f"M{number(self.left)} {number(self.py(v))}H{number(self.right)}" for v in up]
        grid += [f"M{number(self.px(v))} {number(self.top)}V{number(self.bottom)}" for v in across]
        parts = [element("path", d="".join(grid), class_="grid") if grid else ""]
        parts.append(line(self.left, self.bottom, self.right, self.bottom, "axis"))
        parts += [text(self.px(v), self.bottom + 16, self.x.text(v), class_="tick mid") for v in across]
        parts += [text(self.left - 6, self.py(v) + 4, self.y.text(v), class_="tick end") for v in up]
        parts.append(text(self.right, self.height - 6, self.x.title, class_="title end"))
        parts.append(text(2, 13, self.y.title, class_="title"))
        return "".join(parts)
