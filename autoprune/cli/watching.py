"""A run's directory -> its status, drawn again and again until the run ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.cli.console import log_console
from autoprune.cli.progress import is_live

if TYPE_CHECKING:
    from autoprune.search.status import RunStatus

EVERY_S = 2.0
SHARE = 0.1


def watch_status(directory: Path, *, every_s: float = EVERY_S) -> RunStatus:
    """Return a run's last status, showing it on stderr as long as a process works on the run.

    Args:
        directory: Of the run.
        every_s: Seconds between two looks; more where looking takes long.
    """
    from rich.console import Group
    from rich.live import Live

    from autoprune.cli.tables import status_tables
    from autoprune.search.status import read_status

    console = log_console()
    live = Live(console=console, auto_refresh=False, transient=True) if is_live(sys.stderr, os.environ) else None
    if live is not None:
        live.start()
    try:
        while True:
            started = time.monotonic()
            found = read_status(directory)
            if found.state != "running":
                return found
            shown = Group(*status_tables(found))
            if live is None:
                console.print(shown, markup=False)
            else:
                live.update(shown, refresh=True)
            time.sleep(max(every_s, (time.monotonic() - started) / SHARE))
    finally:
        if live is not None:
            live.stop()
