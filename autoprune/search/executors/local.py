"""The local engine: in this process for one worker without limits, else supervised processes of this machine."""

from __future__ import annotations

from multiprocessing.connection import wait

from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.retry import Retries
from autoprune.search.executors.worker import POLL_SECONDS, Lost, WorkerProcess, close_all
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench


class InProcessExecutor:
    """Runs each job in the caller's own process and thread, when it is collected.

    Args:
        bench: What evaluates them.
    """

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


class LocalPool:
    """Runs jobs in child processes, each of which builds the task once; one that is lost is replaced.

    Args:
        setup: What the workers build.
        workers: Their number.
    """

    def __init__(self, setup: Setup, workers: int) -> None:
        self._setup = setup
        self._retries = Retries(setup)
        self._jobs: dict[WorkerProcess, Job] = {}
        self._waiting: list[Job] = []
        self._workers = [WorkerProcess(setup) for _ in range(workers)]

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return max(0, len(self._workers) - len(self._jobs) - len(self._waiting))

    def submit(self, job: Job) -> None:
        """Take a job; it waits while all workers are busy."""
        self._waiting.append(job)
        self._dispatch()

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way.

        Raises:
            AutopruneError: A worker cannot build the task or write a record.
        """
        records: list[CandidateRecord] = []
        while self._jobs and not records:
            busy = [w for w in self._workers if w in self._jobs]
            wait([w.connection for w in busy] + [w.sentinel for w in busy], POLL_SECONDS)
            for worker in busy:
                answer = worker.poll()
                if answer is not None:
                    records += self._answered(worker, answer)
            self._dispatch()
        return records

    def close(self) -> None:
        """End the workers with all that they have started; jobs under way are abandoned."""
        close_all(self._workers)
        self._jobs.clear()
        self._waiting.clear()

    def _dispatch(self) -> None:
        """Give the waiting jobs to idle workers, ready ones first; a dead one is replaced when its turn comes."""
        idle = [w for w in self._workers if w not in self._jobs]
        for worker in sorted(idle, key=lambda w: not (w.ready and w.alive))[: len(self._waiting)]:
            taker = worker if worker.alive else self._replace(worker)
            self._jobs[taker] = self._waiting.pop(0)
            taker.submit(self._jobs[taker])

    def _answered(self, worker: WorkerProcess, answer: CandidateRecord | Lost) -> list[CandidateRecord]:
        """Return the record of a worker's job, or queue it again, first in line."""
        job = self._jobs.pop(worker)
        if isinstance(answer, CandidateRecord):
            return [answer]
        record = self._retries.settle(job, answer)
        if record is None:
            self._waiting.insert(0, job)
            return []
        return [record]

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        worker.close()
        fresh = WorkerProcess(self._setup)
        self._workers[self._workers.index(worker)] = fresh
        return fresh
