"""Jobs whose worker was lost: each is queued again once, then it is a failed record. The same for every engine."""

from __future__ import annotations

from dataclasses import replace

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.executors.base import Job
from autoprune.search.executors.worker import Lost
from autoprune.search.setup import Setup, blank_record, failure_of

ATTEMPTS = 2
STARTS = 8


class Retries:
    """What became of the jobs of lost workers.

    Args:
        setup: The run.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._store = RecordStore(setup.directory)
        self._lost: dict[str, int] = {}
        self._starts = 0

    def settle(self, job: Job, lost: Lost) -> CandidateRecord | None:
        """Return the record of a lost job, which is on disk, or None: it is to be submitted once more.

        A record that the worker had still written counts. `timeout` and `memory` are final.

        Raises:
            AutopruneError: One worker after another ended before it could begin with a job.
        """
        written = self._store.load(job.id)
        if written is not None:
            return written
        if not lost.started:
            self._starts += 1
            if self._starts >= STARTS:
                raise AutopruneError(
                    f"{STARTS} workers in a row ended while they built the task. {lost.message}",
                    hint="See what they wrote above; fewer workers need less memory.",
                )
            return None
        self._starts = 0
        self._lost[job.id] = self._lost.get(job.id, 0) + 1
        if lost.reason == "worker_lost" and self._lost[job.id] < ATTEMPTS:
            return None
        return failed_record(self._setup, job, lost)


def failed_record(setup: Setup, job: Job, lost: Lost) -> CandidateRecord:
    """Write and return the failed record of a job without one."""
    failure = failure_of(lost.reason, "worker", lost.message)
    record = replace(blank_record(setup, job), failure=failure, seconds=lost.seconds)
    RecordStore(setup.directory).write(record)
    return record
