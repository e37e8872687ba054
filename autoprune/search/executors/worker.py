"""Job -> record through a child process, supervised: a hang, an end for lack of memory or a death becomes a `Lost`.

Loads no torch, so that a supervisor costs little wherever it runs.
"""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from autoprune.errors import ConfigError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.child import ERROR, READY
from autoprune.search.executors.clock import WaitClock
from autoprune.search.executors.process import FamilyMemory, await_exit, end_family, exit_status, start_child
from autoprune.search.setup import Setup

POLL_SECONDS = 0.1
GRACE_SECONDS = 2.0

Reason = Literal["timeout", "memory", "worker_lost"]


@dataclass(frozen=True)
class Lost:
    """Why a job has no record.

    Args:
        reason: `timeout` and `memory` are the candidate's own doing; `worker_lost` may be anybody's.
        message: What happened, in words.
        seconds: Wall time from its start to its end.
        started: False when the worker ended before it began with the job.
    """

    reason: Reason
    message: str
    seconds: float = 0.0
    started: bool = True


class WorkerProcess:
    """A child process that evaluates one job at a time, and its limits.

    What a job waits for the host's gate does not count as its time, up to `timeout_s` for each other worker: a
    neighbour that hangs while it trains keeps the gate for so long.

    It is started at once and ends with the thread that made it. After a `Lost` or an error it is dead.

    Args:
        setup: The run; `executor.timeout_s` and `executor.memory_mb` are the limits.

    Attributes:
        connection: Readable when something is to be read.
        sentinel: Readable when the child has ended.
        pid: Process id of the child, which leads a session of its own.
        busy: Whether it has a job.
        ready: Whether its workbench was built.
    """

    def __init__(self, setup: Setup) -> None:
        self._limits = setup.config.executor
        self._neighbours = setup.config.search.workers - 1
        self._job: Job | None = None
        self._started = 0.0
        self._closed = False
        self.ready = False
        self.connection, theirs = multiprocessing.Pipe()
        self.sentinel, alive = os.pipe()
        self._clock, page = WaitClock.create()
        try:
            self.pid = start_child(theirs.fileno(), alive, page)
        finally:
            theirs.close()
            os.close(alive)
            os.close(page)
        self._memory = FamilyMemory(self.pid)
        atexit.register(self.close)
        self._send([p for p in sys.path if isinstance(p, str)])
        self._send(setup)

    @property
    def busy(self) -> bool:
        """Whether it has a job."""
        return self._job is not None

    @property
    def alive(self) -> bool:
        """Whether it can take a job, now or later."""
        return not self._closed and exit_status(self.pid) is None

    def submit(self, job: Job) -> None:
        """Take a job; it waits here until the child is ready."""
        if self._job is not None or self._closed:
            raise RuntimeError(f"Worker {self.pid} has a job or was closed.")
        self._job = job
        if self.ready:
            self._start()

    def poll(self) -> CandidateRecord | Lost | None:
        """Return the job's record, or why there is none, or None as long as neither is known; never waits.

        The limits are checked here: call it at least every 0.2 s.

        Raises:
            AutopruneError: The child could not build its workbench or write a record.
        """
        if self._closed:
            return None
        status = exit_status(self.pid)  # asked first: what a dead child has sent is still to be read
        while self._readable():
            try:
                kind, content = self.connection.recv()
            except (EOFError, OSError):
                await_exit(self.pid, GRACE_SECONDS)
                status = exit_status(self.pid) or 0
                break
            if kind != READY:
                return self._answer(kind, content)
            self.ready = True
            self._start()
        if status is not None:
            return self._lose("worker_lost", f"The worker process ended: {_ending(status)}.")
        return self._over_limit()

    def evaluate(self, job: Job) -> CandidateRecord | Lost:
        """Evaluate a job, waiting for its end.

        Raises:
            AutopruneError: See `poll`.
        """
        self.submit(job)
        while True:
            answer = self.poll()
            if answer is not None:
                return answer
            multiprocessing.connection.wait([self.connection, self.sentinel], POLL_SECONDS)

    def dismiss(self) -> None:
        """Let an idle child end by itself; `close` then has less to wait for."""
        if not self.busy and self.ready:
            self.connection.close()

    def close(self) -> None:
        """End the child's whole process group; one without a job gets a moment to end by itself."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self.dismiss()
        if self.connection.closed:
            await_exit(self.pid, GRACE_SECONDS)
        self._job = None
        end_family(self.pid)
        self.connection.close()
        self._clock.close()
        os.close(self.sentinel)

    def _answer(self, kind: str, content: Any) -> CandidateRecord:
        self._job = None
        if kind == ERROR:
            self.close()
            raise content
        record: CandidateRecord = content
        return record

    def _start(self) -> None:
        if self._job is not None:
            self._clock.reset()
            self._started = time.monotonic()
            self._send(self._job)

    def _send(self, content: object) -> None:
        with suppress(OSError):  # a dead child is noticed by the next poll
            self.connection.send(content)

    def _readable(self) -> bool:
        try:
            return self.connection.poll()
        except OSError:
            return False

    def _over_limit(self) -> Lost | None:
        timeout, memory = self._limits.timeout_s, self._limits.memory_mb
        waiting = self.ready and self._job is None
        if self.ready and self._job is not None and timeout is not None and self._spent(timeout) > timeout:
            return self._lose("timeout", f"The candidate took longer than {timeout:g} s and was ended.")
        if memory is None or waiting:
            return None
        held = self._memory.mib(memory)
        if held <= memory:
            return None
        if not self.ready:
            self.close()
            raise ConfigError(
                f"A worker holds {held:.0f} MiB before it has a candidate. executor.memory_mb is {memory}.",
                hint="Allow several times as much, or leave executor.memory_mb out.",
            )
        return self._lose("memory", f"The candidate held {held:.0f} MiB, more than {memory} MiB, and was ended.")

    def _spent(self, timeout: float) -> float:
        waited = min(self._clock.seconds(), self._neighbours * timeout)
        return time.monotonic() - self._started - waited

    def _lose(self, reason: Reason, message: str) -> Lost | None:
        """End the child; its job, if any, is lost."""
        busy, seconds = self.busy, time.monotonic() - self._started if self.ready else 0.0
        self.close()
        return Lost(reason, message, seconds, started=self.ready) if busy else None


def close_all(workers: Iterable[WorkerProcess]) -> None:
    """End workers together, so that they wait for the slowest and not for the sum."""
    workers = list(workers)
    for worker in workers:
        worker.dismiss()
    for worker in workers:
        worker.close()


def _ending(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    hint = ", by somebody else or by the system for lack of memory" if status == -signal.SIGKILL else ""
    return f"killed by {signal.Signals(-status).name}{hint}"
