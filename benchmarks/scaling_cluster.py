"""A cluster whose workers sleep: jobs -> records after drawn times, all else as on a real one.

The workers are timers in one process of their own. A job travels to it through a pipe; when its time is over, the
record is made, written by `RecordStore` and sent back, as a real worker does. So the driver's process pays for what a
driver pays for, in real seconds: proposing, sending, receiving, learning.
"""

from __future__ import annotations

import heapq
import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np

from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.executors.base import Executor, Job
from autoprune.search.setup import Setup, blank_record, failure_of

WRITERS = 8


@dataclass(frozen=True)
class Draw:
    """What chance decides about one evaluation.

    Args:
        seconds: How long it takes.
        fails: Whether it ends without a result.
    """

    seconds: float
    fails: bool


@dataclass(frozen=True)
class Durations:
    """How long evaluations take: log-normal, and some of them are stragglers. The same candidate number, the same time.

    Args:
        mean_s: Mean of all, stragglers included.
        sigma: Standard deviation of the logarithm.
        stragglers: Share that takes longer.
        slower: By what factor.
        failures: Share that fails, at a moment drawn evenly from its time.
        seed: Of all draws.
    """

    mean_s: float
    sigma: float = 0.5
    stragglers: float = 0.02
    slower: float = 5.0
    failures: float = 0.01
    seed: int = 0

    def of(self, number: int) -> Draw:
        """Return the draw of a candidate's number."""
        rng = np.random.default_rng([self.seed, number])
        usual = self.mean_s / (1.0 + self.stragglers * (self.slower - 1.0))
        seconds = rng.lognormal(math.log(usual) - self.sigma**2 / 2.0, self.sigma)
        seconds *= self.slower if rng.random() < self.stragglers else 1.0
        fails = bool(rng.random() < self.failures)
        return Draw(seconds * rng.random() if fails else seconds, fails)


class Measure(Protocol):
    """A blank record of a job -> its complete record; travels to the workers' process."""

    def __call__(self, job: Job, blank: CandidateRecord) -> CandidateRecord:
        """Return the complete record."""
        ...


@dataclass(frozen=True)
class Span:
    """When a worker was at work on a candidate, by the monotonic clock of the host.

    Args:
        number: The candidate's.
        start: The job was there.
        slept: The drawn time was over.
        end: The record was on disk.
    """

    number: int
    start: float
    slept: float
    end: float


@dataclass(frozen=True)
class Cluster:
    """What the workers' process is told.

    Args:
        setup: The run; its directory takes the records.
        workers: Their number.
        durations: How long evaluations take.
        measure: What they give.
    """

    setup: Setup
    workers: int
    durations: Durations
    measure: Measure


class SimulatedCluster:
    """An executor whose evaluations sleep.

    Args:
        cluster: The workers.

    Attributes:
        spans: One a finished candidate, in the order of arrival.
        submits: When each candidate was submitted.
        waited_s: Seconds during which the driver had nothing else to do.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.spans: list[Span] = []
        self.submits: list[float] = []
        self.waited_s = 0.0
        self._workers = cluster.workers
        self._underway = 0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, cluster), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.recv()

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return self._workers - self._underway

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._underway += 1
        self.submits.append(time.monotonic())
        self._connection.send(job)

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way."""
        records: list[CandidateRecord] = []
        if self._underway:
            before = time.monotonic()
            self._connection.poll(None)
            self.waited_s += time.monotonic() - before
        while self._underway and (not records or self._connection.poll()):
            received = self._connection.recv()
            if isinstance(received, BaseException):
                raise received
            record, span = received
            self._underway -= 1
            self.spans.append(span)
            records.append(record)
        return records

    def close(self) -> None:
        """End the workers; jobs under way are abandoned."""
        self._process.kill()
        self._process.join()
        self._connection.close()


class InBatches:
    """An executor that takes whole batches: the next one when the last has come back to its last candidate.

    Args:
        inner: Who evaluates.
        size: Candidates a batch.
    """

    def __init__(self, inner: Executor, size: int) -> None:
        self._inner = inner
        self._size = size
        self._left = size

    @property
    def free(self) -> int:
        """Number of jobs of this batch that would start at once."""
        return min(self._left, self._inner.free)

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._left -= 1
        self._inner.submit(job)

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way."""
        self._left = 0
        records = self._inner.collect()
        if self._inner.free >= self._size:
            self._left = self._size
        return records

    def close(self) -> None:
        """Stop the workers."""
        self._inner.close()


def utilisation(busy: Iterable[tuple[float, float]], workers: int, start: float, end: float) -> float:
    """Return busy worker-seconds over all worker-seconds between `start` and `end`.

    Args:
        busy: (from, to) of every stretch in which one worker was busy.
        workers: Their number.
        start: Beginning of the time that counts.
        end: Its end.

    Raises:
        ValueError: `end` is not after `start`.
    """
    if not start < end:
        raise ValueError(f"The time that counts must end after its start. Got {start} to {end}.")
    spent = sum(max(0.0, min(to, end) - max(since, start)) for since, to in busy)
    return spent / (workers * (end - start))


@dataclass
class _Timers:
    """Jobs by the moment at which their worker is done.

    Args:
        done: Called with (job, draw, start) once that moment has come.
        durations: How long evaluations take.
    """

    done: Callable[[Job, Draw, float], object]
    durations: Durations
    _heap: list[tuple[float, int, Job, Draw, float]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, job: Job) -> None:
        """Start a worker's sleep."""
        now, draw = time.monotonic(), self.durations.of(job.number)
        with self._changed:
            heapq.heappush(self._heap, (now + draw.seconds, job.number, job, draw, now))
            self._changed.notify()

    def run(self) -> None:
        """Call `done` for every job in its time, for ever."""
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, job, draw, start = heapq.heappop(self._heap)
            self.done(job, draw, start)


def _serve(connection: Connection, cluster: Cluster) -> None:
    """Be the workers until the driver is gone."""
    store, sending = RecordStore(cluster.setup.directory), threading.Lock()

    def finish(job: Job, draw: Draw, start: float) -> None:
        slept = start + draw.seconds
        blank = replace(blank_record(cluster.setup, job), seconds=draw.seconds, cpu_seconds=draw.seconds)
        failed = replace(blank, failure=failure_of("error", "recover", "This one was drawn to fail."))
        record = failed if draw.fails else cluster.measure(job, blank)
        store.write(record)
        with sending:
            connection.send((record, Span(job.number, start, slept, time.monotonic())))

    def report(done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            with sending:
                connection.send(error)

    with ThreadPoolExecutor(WRITERS) as writers:
        timers = _Timers(lambda *given: writers.submit(finish, *given).add_done_callback(report), cluster.durations)
        threading.Thread(target=timers.run, daemon=True).start()
        connection.send("ready")
        while True:
            try:
                timers.add(connection.recv())
            except EOFError:
                return
