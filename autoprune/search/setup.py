"""A run -> what travels to its workers, and a job -> the record of which nothing is known yet. Loads no torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autoprune.config.model import RunConfig
from autoprune.policy import candidate_seed
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.tasks.reference import TaskRef


@dataclass(frozen=True)
class Setup:
    """What travels to a worker; everything else is built there once.

    Args:
        config: The run's configuration.
        task: Reference to the task.
        base: Directory that relative paths of the config start from.
        directory: The run's directory.
        dense_ms: Fixed latency of the dense model on the first target; None while it is being measured.
        store: URL where the run's results go instead of `directory`, for workers that do not share the driver's files.
    """

    config: RunConfig
    task: TaskRef
    base: Path
    directory: Path
    dense_ms: float | None = None
    store: str | None = None


def blank_record(setup: Setup, job: Job) -> CandidateRecord:
    """Return the record of a job before anything is known of it; its state is failed until it is complete."""
    return CandidateRecord(
        id=job.id,
        number=job.number,
        state="failed",
        policy=job.policy.to_json(),
        digest=job.policy.digest,
        fidelity=job.fidelity,
        seed=candidate_seed(setup.config.search.seed, job.policy.digest, job.repeat),
        proposal=job.proposal,
        predicted=job.predicted,
        host=platform.node(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=job.origin,
        repeat=job.repeat,
    )


def failure_of(reason: str, stage: str, message: str) -> dict[str, str]:
    """Return why a candidate failed, as its record states it."""
    return {"reason": reason, "stage": stage, "message": message}
