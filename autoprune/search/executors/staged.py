"""One engine that trains and one that measures -> one engine: latency on other hosts than those that train."""

from __future__ import annotations

from dataclasses import replace

from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Executor, Job


class StagedExecutor:
    """Has the first half of each job done by one engine and the second by another, or by the same one.

    What ends in its first half, stopped at a rung or failed, comes back from there. Two different engines take turns:
    as measuring is the shorter half, it is waited for first, and training goes on meanwhile. Candidates that wait to
    be measured count against the training engine's room, so that they do not pile up.

    Args:
        train: Takes jobs of stage `train`.
        measure: Takes jobs of stage `measure`; the same object where one engine sends either kind to workers that fit.
    """

    def __init__(self, train: Executor, measure: Executor) -> None:
        self._train = train
        self._measure = measure
        self._jobs: dict[str, Job] = {}
        self._trained: list[Job] = []
        self._measuring: set[str] = set()

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return max(0, self._train.free - len(self._trained))

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._jobs[job.id] = job
        self._train.submit(replace(job, stage="train"))

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way."""
        finished: list[CandidateRecord] = []
        while self._jobs and not finished:
            self._pass_on()
            engine = self._measure if self._measuring else self._train
            for record in engine.collect():
                if record.is_unfinished:
                    self._trained.append(replace(self._jobs[record.id], stage="measure"))
                else:
                    finished.append(record)
                    self._measuring.discard(record.id)
                    del self._jobs[record.id]
        self._pass_on()
        return finished

    def close(self) -> None:
        """Stop the workers of both; jobs under way are abandoned."""
        try:
            self._train.close()
        finally:
            if self._measure is not self._train:
                self._measure.close()
        self._jobs.clear()
        self._trained.clear()
        self._measuring.clear()

    def _pass_on(self) -> None:
        """Submit what is trained, as far as there is room for it; the same engine has the room it trained in."""
        while self._trained and (self._measure is self._train or self._measure.free):
            job = self._trained.pop(0)
            self._measuring.add(job.id)
            self._measure.submit(job)
