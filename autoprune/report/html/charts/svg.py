"""Shapes and text -> SVG elements; whatever is put in is escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping

from autoprune.markup import printable

_LONGEST = 26


def element(name: str, *children: str, **attributes: str | float | None) -> str:
    """Return an element of ready children; `class_` becomes `class`, other underscores become hyphens."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def text(x: float, y: float, content: str, **attributes: str | float | None) -> str:
    """Return a line of text; names that nobody vouches for stay literal."""
    return element("text", html.escape(printable(content)), x=x, y=y, **attributes)


def label(x: float, y: float, content: str, longest: int = _LONGEST, **attributes: str | float | None) -> str:
    """Return a name, cut in its middle where it is too long, with the whole of it as its title."""
    content = printable(content)
    short = shortened(content, longest)
    title = () if short == content else (titled(content),)
    return element("text", html.escape(short), *title, x=x, y=y, **attributes)


def titled(content: str) -> str:
    """Return what is shown while the pointer rests on the parent."""
    return element("title", html.escape(printable(content)))


def shortened(content: str, longest: int = _LONGEST) -> str:
    """Return text of at most `longest` characters, cut in its middle."""
    if len(content) <= longest:
        return content
    head = (longest - 1) // 2
    return f"{content[:head]}…{content[len(content) - (longest - 1 - head) :]}"


def number(value: float) -> str:
    """Return a coordinate to a tenth."""
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")


def drawing(width: float, height: float, description: str, *children: str) -> str:
    """Return a whole figure, which a screen reader meets as one image with a description."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=printable(description),
    )


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    """Return a straight line."""
    return element("path", d=f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}", class_=css)


def marker(shape: str, x: float, y: float, radius: float = 5.0) -> str:
    """Return the path of a mark centred on a point; unknown shapes are circles."""
    return SHAPES.get(shape, _circle)(x, y, radius)


def swatch(shape: str, css: str) -> str:
    """Return a mark by itself, for legends and beside names."""
    round_mark = element("circle", r=5, class_="mark")
    mark = round_mark if shape == "circle" else element("path", d=marker(shape, 0, 0), class_="mark")
    return element("svg", mark, class_=f"swatch {css}", aria_hidden="true")


def _value(value: str | float) -> str:
    return html.escape(value) if isinstance(value, str) else number(value)


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float, float], str]:
    def path(x: float, y: float, radius: float) -> str:
        points = (f"{number(x + radius * dx)} {number(y + radius * dy)}" for dx, dy in corners)
        return f"M{'L'.join(points)}Z"

    return path


def _circle(x: float, y: float, radius: float) -> str:
    r = number(radius)
    return (
        f"M{number(x - radius)} {number(y)}a{r} {r} 0 1 0 {number(2 * radius)} 0a{r} {r} 0 1 0 {number(-2 * radius)} 0Z"
    )


def _strokes(*ends: tuple[float, float, float, float]) -> Callable[[float, float, float], str]:
    def path(x: float, y: float, radius: float) -> str:
        return "".join(
            f"M{number(x + radius * x1)} {number(y + radius * y1)}L{number(x + radius * x2)} {number(y + radius * y2)}"
            for x1, y1, x2, y2 in ends
        )

    return path


_STAR = tuple((r * math.sin(math.pi * k / 5), -r * math.cos(math.pi * k / 5)) for k, r in enumerate((1.35, 0.55) * 5))
SHAPES: Mapping[str, Callable[[float, float, float], str]] = {
    "circle": _circle,
    "square": _polygon((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "diamond": _polygon((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "up": _polygon((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    "right": _polygon((1.25, 0), (-0.85, 1.15), (-0.85, -1.15)),
    "star": _polygon(*_STAR),
    "cross": _strokes((-0.8, -0.8, 0.8, 0.8), (-0.8, 0.8, 0.8, -0.8)),
    "plus": _strokes((-1.1, 0, 1.1, 0), (0, -1.1, 0, 1.1)),
    "dash": _strokes((-1.2, 0, 1.2, 0)),
    "dot": _strokes((0, 0, 0, 0)),
}
