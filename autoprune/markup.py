"""Names that nobody vouches for -> text that terminals, Markdown and HTML show as it stands."""

from __future__ import annotations

import html
import re

_MARKDOWN = re.compile(r"([\\`*_\[\]|#~!])")


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
