"""Names that nobody vouches for, and figures -> text that terminals, Markdown and HTML show as it stands."""

from __future__ import annotations

import html
import math
import re

_MARKDOWN = re.compile(r"([\\`*_\[\]|#~!])")


def interval_text(value: float, low: float, high: float) -> str:
    """Return `value [low, high]` with four significant digits of the value, and four decimals of what is 0.1 to 1."""
    size = abs(value) if math.isfinite(value) else 0.0
    decimals = 4 if size == 0.0 or 0.1 <= size <= 1.0 else min(max(3 - math.floor(math.log10(size)), 0), 12)
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def printable(text: str) -> str:
    """Return text on one line, with control and invisible characters replaced by question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)


def escape_marks(text: str) -> str:
    """Return text whose Markdown marks are literal; HTML in it is not escaped."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def escape_markdown(text: str) -> str:
    """Return text that Markdown, and the HTML allowed in it, shows literally."""
    return escape_marks(html.escape(text, quote=False))


def escape_code(text: str) -> str:
    """Return text for a Markdown code span or block."""
    return printable(text).replace("`", "'")
