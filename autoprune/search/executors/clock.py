"""A page that a worker's child and its supervisor share: how long a job has waited for others."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_PAGE = struct.Struct("dd")


class WaitClock:
    """Seconds that a job has waited, written in the child and read by the supervisor.

    Args:
        descriptor: The page; it stays the caller's to close.
    """

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, _PAGE.size)

    @classmethod
    def create(cls) -> tuple[Self, int]:
        """Return a clock at zero and a descriptor of its page."""
        with tempfile.TemporaryFile() as file:
            file.truncate(_PAGE.size)
            descriptor = os.dup(file.fileno())
        return cls(descriptor), descriptor

    def seconds(self) -> float:
        """Return how long the job has waited so far, a wait that goes on included."""
        total, since = _PAGE.unpack_from(self._page)
        return float(total) + (time.monotonic() - since if since else 0.0)

    def reset(self) -> None:
        """Begin with another job; nobody may be waiting."""
        _PAGE.pack_into(self._page, 0, 0.0, 0.0)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the seconds of the block as waiting."""
        total, since = _PAGE.unpack_from(self._page)[0], time.monotonic()
        _PAGE.pack_into(self._page, 0, total, since)
        try:
            yield
        finally:
            _PAGE.pack_into(self._page, 0, total + time.monotonic() - since, 0.0)

    def close(self) -> None:
        """Give the page back."""
        self._page.close()
