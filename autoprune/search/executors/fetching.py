"""An engine whose workers leave their results in an object store -> one whose results are in the run's directory."""

from __future__ import annotations

import logging
from dataclasses import replace

from autoprune.errors import ConfigError
from autoprune.records import CandidateRecord, RecordStore, RemoteStore
from autoprune.search.executors.base import Executor, Job
from autoprune.search.setup import Setup, failure_of

ATTEMPTS = 2

_log = logging.getLogger("autoprune")


class FetchingExecutor:
    """Fetches each candidate from the run's store as its record comes back; one that arrives damaged is run again once.

    Args:
        engine: Its workers were built with the store (`in_store`).
        setup: The run.
    """

    def __init__(self, engine: Executor, setup: Setup) -> None:
        self._engine = engine
        self._store = store_of(setup)
        self._directory = setup.directory
        self._records = RecordStore(setup.directory)
        self._jobs: dict[str, Job] = {}
        self._attempts: dict[str, int] = {}

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return self._engine.free

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs[job.id] = job
        self._attempts[job.id] = self._attempts.get(job.id, 0) + 1
        self._engine.submit(job)

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way.

        Raises:
            StorageError: The store cannot be read, or the run's directory not be written.
        """
        finished: list[CandidateRecord] = []
        while self._jobs and not finished:
            for record in self._engine.collect():
                job = self._jobs.pop(record.id)
                fetched = self._fetched(record)
                if fetched is None and self._attempts[job.id] < ATTEMPTS:
                    _log.warning("Candidate %s is run again: it did not arrive whole.", job.id)
                    self.submit(job)
                    continue
                finished.append(fetched or self._lost(record))
        return finished

    def close(self) -> None:
        """Stop the workers; jobs under way are abandoned."""
        self._engine.close()

    def _fetched(self, record: CandidateRecord) -> CandidateRecord | None:
        """Return the record that is on disk now; None where there is none."""
        known = self._records.load(record.id)
        if known is not None:
            return known
        return self._records.load(record.id) if self._store.pull(record.id, self._directory) else None

    def _lost(self, record: CandidateRecord) -> CandidateRecord:
        """Write and return the failed record of a candidate that never arrived whole."""
        failure = failure_of("storage", "fetch", f"It came {ATTEMPTS} times, never whole, from {self._store.url}.")
        lost = replace(record, state="failed", values={}, evaluation=None, failure=failure)
        self._records.write(lost)
        return lost


def in_store(setup: Setup) -> Setup:
    """Return the setup by which workers leave their results in the run's folder of `executor.store`."""
    store = setup.config.executor.store
    return setup if store is None else replace(setup, store=f"{store.rstrip('/')}/{setup.config.name}")


def store_of(setup: Setup) -> RemoteStore:
    """Return the run's store.

    Raises:
        ConfigError: The run has none, or its URL cannot be used.
        MissingExtraError: It needs a library that is not installed.
    """
    url = in_store(setup).store
    if url is None:
        raise ConfigError("executor.store is null: workers write into the run's directory.")
    return RemoteStore(url)
