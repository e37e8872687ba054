"""Environment of this process -> what a run would find of Ray: which cluster, whether it answers, which kind of token.

No token is ever read.
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CURRENT_CLUSTER = "ray_current_cluster"


def ray_facts(cluster: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return facts about Ray; joining a cluster is tried only where there is one.

    Args:
        cluster: `auto` or an address; None looks for one.
        environ: Variables of the process.
    """
    address = cluster or environ.get("RAY_ADDRESS") or ("auto" if _joined(environ) else None)
    return {
        "cluster": address,
        "reachable": None if address is None else _reachable(address),
        "authentication": environ.get("RAY_AUTH_MODE", "").lower() or "as Ray decides",
        "token": _token(environ),
    }


def _joined(environ: Mapping[str, str]) -> bool:
    """Tell whether `ray start` has left the mark of a cluster on this host."""
    folder = environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    return (Path(folder) / "ray" / CURRENT_CLUSTER).is_file()


def _reachable(address: str) -> str:
    from autoprune.errors import ConfigError
    from autoprune.search.executors.joining import refuse_unreachable_cluster

    try:
        refuse_unreachable_cluster(address)
    except ConfigError as error:
        return f"no: {error} {error.hint}"
    return "yes"


def _token(environ: Mapping[str, str]) -> str:
    """Return where Ray would take a token from, in its own order."""
    if environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        return f"RAY_AUTH_TOKEN_PATH{_flaws(Path(named))}"
    home = Path(environ.get("HOME", "~")).expanduser() / ".ray" / "auth_token"
    return f"~/.ray/auth_token{_flaws(home)}" if home.is_file() else "none"


def _flaws(path: Path) -> str:
    try:
        status = path.stat()
    except OSError as error:
        return f" (cannot be used: {error.strerror})"
    readable = stat.S_IMODE(status.st_mode) & (stat.S_IRGRP | stat.S_IROTH)
    return " (others may read it: chmod 600)" if readable else ""
