"""Phases without a model: a small space, a stand-in for the learned sampler, and an executor that invents records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.groups.types import ModelGroups, PruningGroup, SlicingPlan
from autoprune.records import CandidateRecord, Report
from autoprune.search.context import SamplerContext
from autoprune.search.executors.base import Job
from autoprune.search.loop import Phase
from autoprune.search.objectives import Constraints, Objective
from autoprune.space import BoundSpace, SearchSpace
from autoprune.tasks import MetricSpec

TARGET = "onnxruntime-fp32-b1-t1"
ACCURACY = MetricSpec("accuracy", "max", (0.0, 1.0))
OBJECTIVES = (Objective("accuracy", "max", "fraction"), Objective("latency_ms", "min", "ms", "log", TARGET))


def bound_space(*widths: int) -> BoundSpace:
    starts = np.cumsum([0, *widths])
    groups = tuple(
        PruningGroup(f"layer{i}", int(starts[i]), w, "channel", ((f"layer{i}.weight", 0),), ())
        for i, w in enumerate(widths)
    )
    spec = SearchSpace.model_validate({"name": "test", "description": "-"})
    return spec.bind(ModelGroups(groups, (), SlicingPlan(int(starts[-1]), ()), "torch.export"))


def constraints(**limits: Any) -> Constraints:
    return replace(Constraints(None, (), None, ACCURACY, 0.95, TARGET), **limits)


def context(
    *, evaluations: int = 10, limits: Constraints | None = None, space: BoundSpace | None = None
) -> SamplerContext:
    return SamplerContext(
        space=space or bound_space(16, 32),
        seed=0,
        evaluations=evaluations,
        objectives=OBJECTIVES,
        metrics=(ACCURACY,),
        constraints=limits,
        costs=cast("Any", None),
    )


@dataclass(frozen=True)
class Known:
    origin: str
    predicted: Mapping[str, Mapping[str, float]]


class StandIn(BaseSampler):
    """Proposes at random by the number of trials it sees, predicts, and remembers what it was shown."""

    def __init__(self, ends: Sequence[str | None] = ()) -> None:
        self.ends = list(ends)
        self.seen: list[list[FrozenTrial]] = []

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        self.seen.append([t for t in study.get_trials(deepcopy=True) if t.number != trial.number])
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        seed = [len(self.seen[-1]), *param_name.encode()]
        return RandomSampler(seed=int(np.random.default_rng(seed).integers(2**31))).sample_independent(
            study, trial, param_name, distribution
        )

    def proposal(self, trial_number: int) -> Known:
        expected = {"mean": 0.9, "std": 0.01, "at_evaluation": trial_number}
        return Known("infill", {"accuracy": expected})

    def finished(self, study: Study) -> str | None:
        return self.ends.pop(0) if self.ends else None

    def fallback_reason(self) -> None:
        return None

    def weights(self) -> dict[str, float]:
        return {"ridge": 1.0}


def phase_of(sampler: BaseSampler, **settings: Any) -> Phase:
    given = settings.pop("context", None) or context()
    return Phase(given, sampler, **({"signal": "cross_entropy"} | settings))


def measured(job: Job, **changes: Any) -> CandidateRecord:
    """Return the complete record of a job: what is removed costs accuracy and saves time."""
    removed = sum(job.policy.sparsity.values()) / max(len(job.policy.sparsity), 2)
    values = {"accuracy": 0.95 - 0.4 * removed**2, "latency_ms": 2.0 - removed}
    quality = {"accuracy": {"value": values["accuracy"]}, "cross_entropy": {"value": 0.1 + removed**2}}
    evaluation = {
        "quality": {"val": quality},
        "latency": {TARGET: {"ms": values["latency_ms"]}},
        "cost": {"parameters": 1000, "macs": 1e6 * (1.01 - removed), "bytes": 4000, "nonzero": 1000},
        "seconds": {"prune": 0.75},
    }
    record = CandidateRecord(
        id=job.id,
        number=job.number,
        state="complete",
        policy=job.policy.to_json(),
        digest=job.policy.digest,
        fidelity=job.fidelity,
        seed=0,
        values=values,
        evaluation=evaluation,
        proposal=job.proposal,
        predicted=job.predicted,
        seconds=1.0,
        origin=job.origin,
        repeat=job.repeat,
        cpu_seconds=2.0,
    )
    return replace(record, **changes)


def stopped(job: Job, *reports: tuple[int, float]) -> CandidateRecord:
    """Return the record of a job that ended at a rung."""
    whole = measured(job)
    cost = {"cost": (whole.evaluation or {})["cost"]}
    return replace(whole, state="stopped", values={}, evaluation=cost, reports=tuple(Report(*r) for r in reports))


def failed(job: Job) -> CandidateRecord:
    """Return the record of a job that failed."""
    failure = {"reason": "diverged", "stage": "recover", "message": "the loss is nan"}
    return replace(measured(job), state="failed", values={}, evaluation=None, failure=failure)


@dataclass
class Invented:
    """An executor whose `outcome` makes the records; the newest job comes back first."""

    workers: int = 1
    outcome: Any = measured
    jobs: list[Job] = field(default_factory=list)
    most: int = 0
    done: list[Job] = field(default_factory=list)

    @property
    def free(self) -> int:
        return self.workers - len(self.jobs)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.most = max(self.most, len(self.jobs))

    def collect(self) -> list[CandidateRecord]:
        if not self.jobs:
            return []
        job = self.jobs.pop()
        self.done.append(job)
        return [self.outcome(job)]

    def close(self) -> None:
        self.jobs.clear()
