"""Jobs -> workers that Ray Tune runs as trials -> records: the engine for clusters whose work Tune places and watches.

Tune runs in a thread of its own, and a trial is a worker: it takes one job after another as long as its actor lives.
A trial for each job would not do, even with `reuse_actors`: Tune stops all actors but one when no trial waits for them,
and gives a trial whose actor still starts the first actor that comes free, ending the other.

An actor holds one worker process, so that limits, process groups and lost workers are what they are in every engine.
Records are on disk before Tune hears of them: they alone resume a run, and what Tune itself writes is thrown away.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from autoprune.errors import AutopruneError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.executors.cluster import Cluster
from autoprune.search.executors.desk import Desk, Outcome
from autoprune.search.executors.retry import STARTS, Retries
from autoprune.search.executors.shipping import Parcel, unmark, unpack, with_reserved_threads, wrap
from autoprune.search.executors.worker import POLL_SECONDS, Lost, WorkerProcess
from autoprune.search.setup import Setup

FIRST_PAUSE_S = 0.02
HEARTBEAT_S = 1.0
CLOSE_S = 10.0
OUTCOME = "outcome"
ACTOR = "actor"
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class TunePool:
    """Runs jobs as trials of one Ray Tune experiment.

    A worker that dies is replaced; its job is queued again once and then recorded as failed.

    Args:
        setup: What the workers build.

    Raises:
        ConfigError: See `Cluster`.
    """

    def __init__(self, setup: Setup) -> None:
        self._cluster = Cluster(setup)
        self._retries = Retries(setup)
        self._workers = setup.config.search.workers
        self._under_way = 0
        self._closed = False
        self._desk = Desk()
        self._parcel = wrap(setup if setup.config.executor.address is None else with_reserved_threads(setup))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tune")
        self._tune: Future[None] = self._thread.submit(_serve, self._parcel, self._desk)
        self._tune.add_done_callback(lambda _: self._desk.end())

    @property
    def free(self) -> int:
        """Number of jobs that would start at once."""
        return max(0, self._workers - self._under_way)

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._under_way += 1
        self._desk.leave(job)

    def collect(self) -> list[CandidateRecord]:
        """Return the records finished since the last call, waiting for at least one while any job is under way.

        Raises:
            AutopruneError: A worker could not be built, or Tune itself ended.
        """
        records: list[CandidateRecord] = []
        while self._under_way and not records:
            for job, outcome in self._desk.take():
                record = self._settled(job, outcome)
                if record is not None:
                    records.append(record)
            if self._desk.ended and not records:
                raise _tune_ended(self._tune)
        return records

    def close(self) -> None:
        """Stop the workers; jobs under way are abandoned."""
        if self._closed:
            return
        self._closed = True
        self._under_way = 0
        self._desk.close()
        ended, _ = futures.wait([self._tune], CLOSE_S)
        self._thread.shutdown(wait=bool(ended))
        self._cluster.close()
        unmark(self._parcel)

    def _settled(self, job: Job | None, outcome: Outcome) -> CandidateRecord | None:
        """Return the record of a job that has come back, or queue it again."""
        self._under_way -= job is not None
        if isinstance(outcome, AutopruneError):
            raise outcome
        if job is None or isinstance(outcome, CandidateRecord):
            return outcome if isinstance(outcome, CandidateRecord) else None
        record = self._retries.settle(job, outcome)
        if record is None:
            self.submit(job)
        return record


class WorkerTrainable(tune.Trainable):
    """A trainable whose actor holds one worker process as long as it lives, whatever trials it serves."""

    _parcel: Parcel
    _worker: WorkerProcess | None = None

    @property
    def worker(self) -> WorkerProcess:
        """The worker process; a new one where the last has died.

        Raises:
            AutopruneError: This node lacks what the run needs.
        """
        if self._worker is None or not self._worker.alive:
            self.cleanup()
            self._worker = WorkerProcess(unpack(self._parcel))
        return self._worker

    def cleanup(self) -> None:
        """End the worker process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class JobTrainable(WorkerTrainable):
    """Evaluates the jobs that it is given, one by one, in steps of a second; never done by itself.

    Without a job it reports that it has none, less and less often.
    """

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        """Take no job yet; `parcel` is given."""
        del config
        self._parcel = given["parcel"]
        self._job: Job | None = None
        self._pause_s = FIRST_PAUSE_S
        self._actor = ray.get_runtime_context().current_actor

    def take(self, job: Job) -> None:
        """Take the job of the next steps."""
        self._job = job

    def step(self) -> dict[str, Any]:
        """Return what became of the job, if it is known by the end of the step."""
        try:
            outcome = self._progress()
        except AutopruneError as error:
            outcome = error
        return {OUTCOME: outcome, ACTOR: self._actor}

    def _progress(self) -> Outcome | None:
        job, self._job = self._job, None
        if job is not None:
            self.worker.submit(job)
        worker = self._worker or self.worker
        self._pause_s = HEARTBEAT_S if worker.busy else min(HEARTBEAT_S, 2 * self._pause_s)
        deadline = time.monotonic() + self._pause_s
        while (outcome := worker.poll()) is None and time.monotonic() < deadline:
            wait([worker.connection] if worker.alive else [], POLL_SECONDS)
        if outcome is not None:
            self._pause_s = FIRST_PAUSE_S
        return outcome


class Clerk(tune.Callback):
    """Hands jobs to trials at Tune's side of the desk, and brings back what became of them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._failed_starts = 0

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Bring back what a trial has found out, and hand it its next job, which it takes before its next step."""
        del iteration, trials, info
        self._failed_starts = 0
        outcome, actor = result.pop(OUTCOME), result.pop(ACTOR)  # Tune keeps what is left
        if outcome is not None:
            self._desk.bring_back(trial.trial_id, outcome)
        job = None if self._desk.has_job(trial.trial_id) else self._desk.hand_out(trial.trial_id)
        if job is not None:
            actor.take.remote(job)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Bring back the job of a trial whose actor was lost; Tune starts another in its place."""
        del iteration, trials, info
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            self._desk.bring_back(trial.trial_id, _no_start(trial))
        self._desk.bring_back(trial.trial_id, Lost("worker_lost", "The actor of the trial, or its node, was lost."))


class Lanes(Searcher):
    """Asks for as many trials as Tune lets run at once, again and again, until the desk is closed."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk

    def suggest(self, trial_id: str) -> Any:
        """Return the empty configuration of a trial, or `FINISHED`."""
        del trial_id
        return self.FINISHED if self._desk.closed else {}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: trials end when their actors are lost, or with the pool."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the records resume a run."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class WhenClosed(tune.Stopper):
    """Stops all trials when the desk is closed."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no trial by its results."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Tell whether all trials are to end."""
        return self._desk.closed


def _serve(parcel: Parcel, desk: Desk) -> None:
    """Run Tune until the desk is closed."""
    config = parcel.setup.config
    trainable = tune.with_resources(
        tune.with_parameters(JobTrainable, parcel=parcel),
        {"cpu": config.executor.cpus_per_worker, "gpu": config.executor.gpus_per_worker},
    )
    with tempfile.TemporaryDirectory(prefix=f"autoprune-tune-{os.getpid()}-") as directory, _quiet_tune():
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Lanes(desk),
                num_samples=-1,
                max_concurrent_trials=config.search.workers,
                trial_dirname_creator=_directory_name,
            ),
            run_config=tune.RunConfig(
                name="run",
                storage_path=directory,
                stop=WhenClosed(desk),
                callbacks=[Clerk(desk)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()


def _no_start(trial: Trial) -> AutopruneError:
    lines = str(trial.get_error() or "").strip().splitlines()
    return AutopruneError(
        f"{STARTS} actors in a row ended before they could work. {lines[-1] if lines else ''}".strip(),
        hint="See Ray's logs of the node; autoprune must be installed on every node.",
    )


def _directory_name(trial: Any) -> str:
    return str(trial.trial_id)


def _tune_ended(served: Future[None]) -> AutopruneError:
    cause = served.exception()
    error = AutopruneError(
        f"Ray Tune ended before its trials did: {type(cause).__name__}: {cause}",
        hint="The same command continues from the records.",
    )
    error.__cause__ = cause
    return error


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Keep Tune from writing logs and progress, as far as the user's environment does not say otherwise."""
    missing = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    log = logging.getLogger("ray.tune")
    level = log.level
    os.environ.update(missing)
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)
        for name in missing:
            os.environ.pop(name, None)
