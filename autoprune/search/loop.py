"""The loop: ask -> submit -> record -> tell, until the budget is spent. Resumes from the records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from autoprune.config.model import RunConfig
from autoprune.policy import Policy
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Executor, Job
from autoprune.search.objectives import Constraints, Objective
from autoprune.search.samplers import SAMPLERS, sweep_point
from autoprune.search.study import memory_study, proposal_of, trial_of
from autoprune.space import BoundSpace

REPEATS = 50


@dataclass
class Searcher:
    """Proposes policies that no record holds yet, and learns from the records that come back.

    Args:
        config: The run's configuration.
        space: What may be chosen.
        objectives: What is optimised.
        constraints: What is demanded.
        records: Search records so far, failures included, in order of their numbers.
    """

    config: RunConfig
    space: BoundSpace
    objectives: Sequence[Objective]
    constraints: Constraints
    records: Sequence[CandidateRecord]
    _names: list[str] = field(init=False, default_factory=list)
    _known: dict[str, CandidateRecord] = field(init=False, default_factory=dict)
    _pending: dict[str, Trial] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        search = self.config.search
        seed = (search.seed + 7919 * len(self.records)) % 2**32
        sampler = SAMPLERS[search.sampler](self.space, seed, search.budget.evaluations)
        self._names = [o.name for o in self.objectives]
        self._study = memory_study((), sampler, directions_of(self.objectives))
        self._study.add_trials([self._trial_of(record) for record in self.records])
        self._known = {r.digest: r for r in self.records}
        self._next = max((r.number for r in self.records), default=0) + 1
        if not self.records and search.sampler != "uniform":
            for number in range(min(search.warm_start, search.budget.evaluations)):
                self._study.enqueue_trial(sweep_point(self.space, number))

    def propose(self) -> Job | None:
        """Return the next candidate; None when the sampler repeats itself only, that is the space is used up."""
        for _ in range(REPEATS):
            trial = self._study.ask()
            policy = self.space.suggest(trial)
            known = self._known.get(policy.digest)
            if known is not None:
                self._tell(trial, known)
            elif policy.digest in self._pending:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._pending[policy.digest] = trial
                number, self._next = self._next, self._next + 1
                frozen = self._study.get_trials(deepcopy=False)[trial.number]
                return Job(number, policy, "short", proposal_of(frozen))
        return None

    def learn(self, record: CandidateRecord) -> None:
        """Take the record of a proposed candidate."""
        self._known[record.digest] = record
        self._tell(self._pending.pop(record.digest), record)

    def _trial_of(self, record: CandidateRecord) -> FrozenTrial:
        trial = trial_of(record, self._names)
        if record.state == "complete":
            for expression, violation in violations_of(self.constraints, record).items():
                trial.set_constraint(expression, violation)
        return trial

    def _tell(self, trial: Trial, record: CandidateRecord) -> None:
        if record.state != "complete":
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for expression, violation in violations_of(self.constraints, record).items():
            trial.set_constraint(expression, violation)
        self._study.tell(trial, [record.values[name] for name in self._names])


def violations_of(constraints: Constraints, record: CandidateRecord) -> dict[str, float]:
    """Return expression -> violation of a complete record, <= 0 where it holds."""
    evaluation: Mapping[str, Any] = record.evaluation or {}
    quality = {name: interval["value"] for name, interval in evaluation["quality"]["val"].items()}
    latency_ms = record.values.get("latency_ms", evaluation["latency"][constraints.target]["ms"])
    return constraints.violations({**quality, **evaluation["cost"]}, latency_ms)


def run_loop(
    searcher: Searcher, executor: Executor, stop: Callable[[], bool], evaluations: int
) -> Iterator[CandidateRecord]:
    """Evaluate candidates and yield each record once it is on disk and learnt from.

    Args:
        searcher: Proposes and learns.
        executor: Evaluates.
        stop: Asked before each proposal; True ends the search.
        evaluations: Candidates still wanted.
    """
    left, underway, exhausted = evaluations, 0, False
    while True:
        while executor.free and left > 0 and not exhausted and not stop():
            job = searcher.propose()
            exhausted = job is None
            if job is not None:
                executor.submit(job)
                left, underway = left - 1, underway + 1
        if not underway:
            return
        for record in executor.collect():
            underway -= 1
            searcher.learn(record)
            yield record


def policy_of(record: CandidateRecord) -> Policy:
    """Return the policy that a record holds."""
    return Policy.from_json(record.policy)


def directions_of(objectives: Sequence[Objective]) -> list[str]:
    """Return Optuna's directions of the objectives."""
    return ["maximize" if o.direction == "max" else "minimize" for o in objectives]
