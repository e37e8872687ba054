"""Named places of the code -> a process that is killed exactly there: a hook for the tests of crash safety.

Nothing happens unless `AUTOPRUNE_FAULT` names a place when the process starts, as NAME or NAME:COUNT: the process then
ends itself by SIGKILL, as it passes the place for the COUNT-th time. A place that serves several files or directories
is named with the one that is meant, such as `file-written.front.json` or `directory-renamed.candidates`.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "AUTOPRUNE_FAULT"


class _Fault:
    """The place at which this process ends, and how many times it is passed until then."""

    name = ""
    left = 0

    def reach(self, name: str) -> None:
        """End the process if this is the place and its turn has come."""
        if name == self.name:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


_fault = _Fault()


def arm(spec: str) -> None:
    """Choose the place at which this process ends, as the environment variable does; empty = nowhere."""
    _fault.name, _, count = spec.partition(":")
    _fault.left = int(count) if count.isdecimal() else 1


def fault_point(place: str, of: str = "") -> None:
    """Mark a place; `of` names the file or directory that is at work there."""
    if _fault.name:
        _fault.reach(f"{place}.{of}" if of else place)


arm(os.environ.get(VARIABLE, ""))
