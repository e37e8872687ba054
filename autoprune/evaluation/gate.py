"""Host gate: no candidate trains on a host while another is timed there."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from autoprune.errors import OutputError


class HostGate:
    """A lock between all processes of a user on a host: many share it to compute, one holds it to measure.

    Whoever wants to measure first closes a turnstile, so that new sharers wait behind it and it is never starved.
    The locks are `flock`s: the kernel frees them when their process ends, however it ends. They do not nest: a
    holder that asks again waits for itself. Hold `shared` for a chunk of training at a time, not for all of it.

    Args:
        directory: Where the two lock files lie, on a local disk; by default one a user in the temporary directory.

    Raises:
        OutputError: The directory belongs to somebody else or cannot be made.
    """

    def __init__(self, directory: Path | None = None) -> None:
        own = Path(tempfile.gettempdir()) / f"autoprune-gate-{os.getuid()}"
        self.directory = directory or own
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.directory.lstat()
        except OSError as error:
            raise OutputError(f"The host gate cannot use {self.directory}: {error.strerror}.") from error
        if status.st_uid != os.getuid():
            raise OutputError(
                f"The host gate's directory {self.directory} belongs to another user.",
                hint="Set TMPDIR to a directory of your own.",
            )

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the gate together with other sharers, while nobody measures."""
        with self._opened("gate") as gate:
            with self._opened("turnstile") as turnstile:
                fcntl.flock(turnstile, fcntl.LOCK_SH)
                fcntl.flock(gate, fcntl.LOCK_SH)
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the gate alone."""
        with self._opened("turnstile") as turnstile, self._opened("gate") as gate:
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            fcntl.flock(gate, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """Open a lock file anew: a descriptor of its own makes threads of one process exclude each other too."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self.directory / name, flags, 0o600)
        except OSError as error:
            raise OutputError(f"The host gate cannot open {self.directory / name}: {error.strerror}.") from error
        try:
            yield descriptor
        finally:
            # Unlocked explicitly because a forked child may hold a copy of the descriptor.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
