"""What a user types -> the directory of a run."""

from __future__ import annotations

import re
from pathlib import Path

from autoprune.config.model import NAME_PATTERN
from autoprune.config.reader import printable
from autoprune.errors import ConfigError
from autoprune.registry import nearest

_MARKS = ("config.yaml", "front.json")


def locate_run(name: str, output: Path) -> Path:
    """Return the directory of a run given by name (under `output`), by directory or by its front.json.

    Raises:
        ConfigError: There is no such run; the message names the nearest one.
    """
    named = output / name
    if re.fullmatch(NAME_PATTERN, name) and _is_run(named):
        return named
    path = Path(name)
    if path.name == "front.json" and path.is_file():
        return path.parent
    if _is_run(path):
        return path
    known = sorted(p.name for p in output.iterdir() if _is_run(p)) if output.is_dir() else []
    close = nearest(name, known, count=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        f"{printable(name)!r} is no run in {output}, nor a run directory.{guess}",
        hint=f"Runs in {output}: {', '.join(known[:20]) or 'none'}; --output names another directory.",
    )


def _is_run(path: Path) -> bool:
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)
