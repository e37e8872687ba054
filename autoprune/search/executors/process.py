"""A process of its own for a worker: started in its own session, its whole family watched and ended from outside."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

BOOT = """
import sys
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
try:
    sys.path[:] = pipe.recv()
except EOFError:
    sys.exit()
from autoprune.search.executors.child import Bonds, serve
serve(pipe, Bonds(*map(int, sys.argv[2:])))
"""
REAP_SECONDS = 5.0
PAUSE_SECONDS = 0.005
FAMILY_SECONDS = 1.0

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


def start_child(pipe: int, alive: int, clock: int) -> int:
    """Start a worker's child, in a session of its own, and return its process id.

    Nothing of the caller's `__main__` is imported there, so that scripts without a guard, notebooks and actors will do.

    Args:
        pipe: Descriptor of the child's end of its connection.
        alive: Descriptor that the child holds as long as it lives.
        clock: Descriptor of the page on which it counts what it has waited.
    """
    for descriptor in (pipe, alive, clock):
        os.set_inheritable(descriptor, True)
    arguments = [sys.executable, "-P", "-c", BOOT, *map(str, (pipe, alive, clock, os.getpid()))]
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    return os.posix_spawn(
        sys.executable, arguments, dict(os.environ), file_actions=[nothing], setsid=True, setsigmask=()
    )


def exit_status(pid: int) -> int | None:
    """Return how a child ended, a negative signal or its exit code; None while it lives. It is not reaped yet."""
    try:
        result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def family_of(pid: int) -> list[psutil.Process]:
    """Return a session's leader, its members, whoever their parent is, and the leader's descendants in any session."""
    members: dict[int, psutil.Process] = {}
    with suppress(*_GONE):
        leader = psutil.Process(pid)
        members = {p.pid: p for p in (leader, *leader.children(recursive=True))}
    for other in psutil.pids():
        with suppress(*_GONE, OSError):
            if other not in members and os.getsid(other) == pid:
                members[other] = psutil.Process(other)
    return list(members.values())


def end_family(pid: int) -> None:
    """Kill a child that has not been reaped with all its family, and reap it."""
    members = family_of(pid)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    for member in members:
        with suppress(*_GONE):
            member.kill()
    await_exit(pid, REAP_SECONDS)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def await_exit(pid: int, seconds: float) -> None:
    """Wait for a child to end, at most so long."""
    deadline = time.monotonic() + seconds
    while exit_status(pid) is None and time.monotonic() < deadline:
        time.sleep(PAUSE_SECONDS)


class FamilyMemory:
    """Resident memory of a child and its family; who belongs to it is looked up every second.

    Args:
        pid: The child.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._family: Sequence[psutil.Process] = ()
        self._looked = -FAMILY_SECONDS

    def mib(self, limit: float) -> float:
        """Return MiB held now; pages that several of them share count once when a limit would be passed otherwise."""
        if time.monotonic() - self._looked >= FAMILY_SECONDS:
            self._family, self._looked = family_of(self._pid), time.monotonic()
        held = sum(map(_resident, self._family)) / 2**20
        if held <= limit or len(self._family) == 1:
            return held
        return sum(map(_proportional, self._family)) / 2**20


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except _GONE:
        return 0


def _proportional(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except _GONE:
        return 0
    return int(getattr(full, "pss", full.rss))
