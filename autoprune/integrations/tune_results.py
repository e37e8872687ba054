"""What a Tune trial was given and has reported <-> jobs and records, as the search's own loop knows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autoprune.integrations.tune_trainable import FINAL
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Report
from autoprune.search.executors.base import Job
from autoprune.search.objectives import COSTS, Constraints, Objective
from autoprune.search.setup import failure_of

ITERATION = "training_iteration"


def record_of(
    blank: CandidateRecord, result: Mapping[str, Any], objectives: Sequence[Objective], constraints: Constraints | None
) -> CandidateRecord:
    """Return what a trial's last result tells of its candidate.

    Args:
        blank: The candidate's record before anything was known.
        result: Flat, as Tune hands it out.
        objectives: What it must hold.
        constraints: What else it must hold, by what they are on.
    """
    numbers = {k: float(v) for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    figures = {name: value for name, value in numbers.items() if math.isfinite(value)}
    demanded = () if constraints is None else (bound.metric for bound in constraints.bounds.values())
    missing = [name for name in (*(o.name for o in objectives), *demanded) if name not in figures]
    if missing:
        told = str(result.get("failure") or "") or f"{missing[0]} is {result.get(missing[0], 'not reported')}."
        return replace(blank, failure=failure_of("nonfinite", "tune", told))
    cost = {name: figures[name] for name in COSTS if name in figures}
    if not result.get(FINAL, True):
        first = objectives[0]
        report = Report(int(figures.get(ITERATION, 1)), first.sign * figures[first.name])
        return replace(blank, state="stopped", evaluation={"cost": cost}, reports=(report,))
    evaluation = {
        "quality": {"val": {name: {"value": value} for name, value in figures.items()}},
        "latency": {} if constraints is None else {constraints.target: {"ms": figures.get("latency_ms", 0.0)}},
        "cost": cost,
    }
    values = {o.name: figures[o.name] for o in objectives}
    return replace(blank, state="complete", values=values, evaluation=evaluation)


def job_to_json(job: Job) -> dict[str, Any]:
    """Return a job without its rungs as plain JSON."""
    return {
        "number": job.number,
        "policy": job.policy.to_json(),
        "fidelity": job.fidelity,
        "proposal": dict(job.proposal),
        "origin": job.origin,
        "predicted": dict(job.predicted),
    }


def job_from_json(document: Mapping[str, Any]) -> Job:
    """Return the job that `job_to_json` has written.

    Raises:
        ValueError: It is no job.
    """
    return Job(**{**document, "policy": Policy.from_json(document["policy"])})
