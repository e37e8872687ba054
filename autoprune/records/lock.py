"""One process a run directory: a kernel lock that dies with its owner, and a file that names the owner."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import socket
import time
import weakref
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from autoprune.errors import RunLockedError
from autoprune.storage import dump_json, parse_json, remove_stale, storage_errors
from autoprune.storage.faults import fault_point

LOCK_FILE = "run.lock"
_POLL_S = 0.02
_OWNER_LIMIT = 4096


class Owner(NamedTuple):
    """Who holds a run directory, and since when (UTC, ISO 8601)."""

    host: str
    pid: int
    start: str


class RunLock:
    """Context manager that owns a run directory and sweeps up what a killed owner left half-written.

    Args:
        run_dir: The directory; created where missing.
        patience_s: Seconds to wait for a lock to come free, since a killed owner takes a moment to die.
    """

    def __init__(self, run_dir: Path, *, patience_s: float = 1.0) -> None:
        self.path = run_dir / LOCK_FILE
        self.patience_s = patience_s
        self._handle: FileIO | None = None

    def __enter__(self) -> Self:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = self.path.open("a+b", buffering=0)  # else closing it would try again what failed
        try:
            self._acquire(handle)
            remove_stale(self.path.parent)
        except BaseException:
            handle.close()
            raise
        self._handle = handle
        _held.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.truncate(0)
            self.drop()

    def drop(self) -> None:
        """Close this process's hold on the lock; a process forked from the owner does so at once."""
        _held.discard(self)
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _acquire(self, handle: FileIO) -> None:
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._locked() from None
                time.sleep(_POLL_S)
            else:
                break
        fault_point("lock-taken")
        start = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        with storage_errors(self.path):
            handle.truncate(0)
            handle.write(dump_json(Owner(socket.gethostname(), os.getpid(), start)._asdict()))
        fault_point("lock-signed")

    def _locked(self) -> RunLockedError:
        owner = read_owner(self.path.parent)
        who = f"process {owner.pid} on {owner.host}, started {owner.start}" if owner else "another process"
        return RunLockedError(
            f"{self.path.parent} is in use by {who}.",
            hint="Wait until it ends or stop it, or choose another --name.",
        )


def owner_of(run_dir: Path) -> Owner | None:
    """Return who holds a run directory at this moment; None where nobody does. Writes nothing.

    A holder that has not signed yet, or whose signature cannot be read, is an owner without a name.
    """
    try:
        with (run_dir / LOCK_FILE).open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_owner(run_dir) or Owner("", 0, "")
    except OSError:
        return None
    return None


def read_owner(run_dir: Path) -> Owner | None:
    """Return who last took the lock of a run directory and has not given it back; None where nobody."""
    try:
        with (run_dir / LOCK_FILE).open("rb") as handle:
            document = parse_json(handle.read(_OWNER_LIMIT))
        return Owner(str(document["host"]), int(document["pid"]), str(document["start"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _drop_in_child() -> None:
    for lock in list(_held):
        lock.drop()


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()
os.register_at_fork(after_in_child=_drop_in_child)
