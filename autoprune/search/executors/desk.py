"""Jobs and what became of them, between the driver's thread and that of a scheduler whose workers ask for work."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.worker import Lost

WAIT_S = 0.5

Outcome = CandidateRecord | Lost | AutopruneError


class Desk:
    """The driver leaves jobs and takes outcomes; the scheduler takes a job for a worker and brings its outcome back.

    Attributes:
        closed: Whether nothing is handed out any more.
        ended: Whether nothing will be brought back any more.
    """

    def __init__(self) -> None:
        self.closed = False
        self.ended = False
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._handed: dict[str, Job] = {}
        self._done: deque[tuple[Job | None, Outcome]] = deque()
        self._driver_waits = False

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel empty: a copy that a scheduler stores is never used."""
        return Desk, ()

    def leave(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def hand_out(self, worker: str) -> Job | None:
        """Return the next job for a worker that has none; None where there is none now.

        What the driver is about to leave is waited for: until it waits for an outcome itself.
        """
        with self._changed:
            while not self._settled() and threading.main_thread().is_alive():
                self._changed.wait(WAIT_S)
            if self.closed or not self._waiting:
                return None
            job = self._handed[worker] = self._waiting.popleft()
            return job

    def bring_back(self, worker: str, outcome: Outcome) -> None:
        """Take what became of a worker's job; of a worker without one, only an error counts."""
        with self._changed:
            job = self._handed.pop(worker, None)
            if job is not None or isinstance(outcome, AutopruneError):
                self._done.append((job, outcome))
                self._changed.notify_all()

    def has_job(self, worker: str) -> bool:
        """Tell whether a worker was given a job that has not come back."""
        with self._changed:
            return worker in self._handed

    def take(self) -> list[tuple[Job | None, Outcome]]:
        """Return what was brought back since the last call, waiting for it for a moment."""
        with self._changed:
            self._driver_waits = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done or self.ended, WAIT_S)
            self._driver_waits = False
            found = list(self._done)
            self._done.clear()
            return found

    def close(self) -> None:
        """Hand out nothing any more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Tell the driver that nothing more comes."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _settled(self) -> bool:
        """Whether there is a job, or there will be none before something is brought back."""
        return self.closed or bool(self._waiting) or (self._driver_waits and not self._done)
