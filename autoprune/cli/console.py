"""Values -> the two streams: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA_VERSION = "1.0"
_PIPE_WIDTH = 140


def output_console() -> Console:
    """Return the console of results; in a pipe it is wide enough for every table."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def log_console() -> Console:
    """Return the console of progress, logs and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def show(*parts: RenderableType) -> None:
    """Write tables to stdout; text is taken literally, without markup."""
    console = output_console()
    for part in parts:
        console.print(part, markup=False)


def write_text(text: str) -> None:
    """Write text to stdout as it is."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")


def write_json(document: Mapping[str, Any]) -> None:
    """Write exactly one JSON document to stdout, `schema_version` first."""
    whole = {"schema_version": SCHEMA_VERSION} | dict(document)
    write_text(json.dumps(whole, indent=2, allow_nan=False))


def note(text: str) -> None:
    """Write lines to stderr; control characters, which could steer a terminal, become question marks."""
    sys.stderr.write("".join(c if c.isprintable() or c == "\n" else "?" for c in f"{text}\n"))
    sys.stderr.flush()
