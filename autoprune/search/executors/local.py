"""The local engine: in this process for one worker, a pool of processes for more."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.executors.base import Job
from autoprune.search.workbench import Setup, Workbench, blank_record, failure_of

ATTEMPTS = 2

_worker: dict[str, Workbench] = {}


class InProcessExecutor:
    """Runs each job in the caller's own process and thread, when it is collected."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._waiting: list[Job] = []

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return 0 if self._waiting else 1

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._waiting.append(job)

    def collect(self) -> list[CandidateRecord]:
        """Run the next job and return its record; nothing when none waits."""
        return [self._bench.run(self._waiting.pop(0))] if self._waiting else []

    def close(self) -> None:
        """Forget the waiting jobs."""
        self._waiting.clear()


class ProcessPool:
    """Runs jobs in worker processes, each of which builds the task once.

    A worker that dies takes the pool with it: the pool is built again, what was under way is queued again once and
    then recorded as failed.

    Args:
        setup: What the workers build.
        workers: Their number.
    """

    def __init__(self, setup: Setup, workers: int) -> None:
        self._setup = setup
        self._workers = workers
        self._others = set(multiprocessing.active_children())
        self._pool = self._start()
        self._running: dict[Future[CandidateRecord], Job] = {}
        self._attempts: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return max(0, self._workers - len(self._running))

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._attempts[job.id] = self._attempts.get(job.id, 0) + 1
        self._running[self._pool.submit(_run, job)] = job

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way."""
        records: list[CandidateRecord] = []
        while self._running and not records:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            broken: list[Job] = []
            for future in done:
                job = self._running.pop(future)
                try:
                    records.append(future.result())
                except BrokenProcessPool:
                    broken.append(job)
            if broken:
                records += self._restart([*broken, *self._running.values()])
        return records

    def close(self) -> None:
        """Stop the workers; jobs under way are abandoned."""
        if not self._running:
            self._pool.shutdown(wait=True)
            return
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - self._others:
            process.terminate()
        self._running.clear()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            max_workers=self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_build,
            initargs=(self._setup,),
        )

    def _restart(self, lost: list[Job]) -> list[CandidateRecord]:
        self._running.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._start()
        store, records = RecordStore(self._setup.directory), []
        for job in lost:
            if self._attempts[job.id] < ATTEMPTS:
                self.submit(job)
                continue
            failure = failure_of("worker_lost", "worker", "The worker process died twice.")
            record = replace(blank_record(self._setup, job), failure=failure)
            store.write(record)
            records.append(record)
        return records


def _build(setup: Setup) -> None:
    _worker["bench"] = Workbench(setup)


def _run(job: Job) -> CandidateRecord:
    if "bench" not in _worker:
        raise AutopruneError("The worker was not built.")
    return _worker["bench"].run(job)
