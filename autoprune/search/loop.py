"""The loop: ask -> submit -> record -> tell, until a budget is spent. Resumes from the records alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from autoprune.policy import Policy
from autoprune.records import CandidateRecord
from autoprune.search.context import SamplerContext
from autoprune.search.executors.base import Executor, Job
from autoprune.search.objectives import Constraints, Objective
from autoprune.search.rungs import RungBoard, Rungs
from autoprune.search.samplers import LearnedSampler, sweep_point
from autoprune.search.study import STATES, attributes_of, memory_study, proposal_of, trial_of
from autoprune.search.underway import Underway

REPEATS = 50
EXHAUSTED = "exhausted"
PLATEAU = "plateau"
EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Phase:
    """One search at one fidelity.

    Args:
        context: What its sampler was told.
        sampler: Who proposes.
        signal: The task's smooth metric, which goes with every trial.
        warm_start: First candidates taken from the uniform sweep.
        plateau: Whether the sampler may end the phase when gains run out.
        board: Reports of its candidates at rungs; None where none is stopped early.
    """

    context: SamplerContext
    sampler: BaseSampler
    signal: str | None = None
    warm_start: int = 0
    plateau: bool = True
    board: RungBoard | None = None


class Searcher:
    """Proposes policies that no record holds yet, and learns from the records that come back.

    Args:
        phase: What is searched, and by whom.
        records: The phase's records so far, failures included.
        taken: Records of other origin at the same fidelity, such as controls: never evaluated again.
        first: Number of the next candidate.
        again: Jobs that an earlier call left under way: they come first.

    Attributes:
        ended: Why the phase ended; empty while it goes on.
    """

    def __init__(
        self,
        phase: Phase,
        records: Sequence[CandidateRecord],
        *,
        taken: Iterable[CandidateRecord] = (),
        first: int = 1,
        again: Sequence[Job] = (),
    ) -> None:
        self.phase = phase
        self.ended = ""
        self._learned = phase.sampler if isinstance(phase.sampler, LearnedSampler) else None
        self._names = [o.name for o in phase.context.objectives]
        self._storage = optuna.storages.InMemoryStorage()
        directions = directions_of(phase.context.objectives)
        self._study = memory_study((), phase.sampler, directions, storage=self._storage)
        ordered = sorted(records, key=lambda r: r.number)
        self._study.add_trials([seen_trial(phase.context, record, phase.signal) for record in ordered])
        self._known = {r.digest: r for r in (*taken, *ordered)}
        self._pending: dict[str, Trial] = {}
        self._again = deque(job for job in again if job.policy.digest not in self._known)
        self._repeated: set[str] = set()
        self._next = max(first, *(job.number + 1 for job in again), 1)
        if not ordered:
            for number in range(min(phase.warm_start, phase.context.evaluations)):
                self._study.enqueue_trial(sweep_point(phase.context.space, number))

    def propose(self) -> Job | None:
        """Return the next candidate; None when the sampler is done or only repeats itself, as `ended` then tells."""
        if self._again:
            job = self._again.popleft()
            self._repeated.add(job.policy.digest)
            return replace(job, rungs=self._rungs())
        if self._learned is not None:
            reason = self._learned.finished(self._study)
            if reason is not None and (reason != PLATEAU or self.phase.plateau):
                self.ended = reason
                return None
        for _ in range(REPEATS):
            trial = self._study.ask()
            policy = self.phase.context.space.suggest(trial)
            known = self._known.get(policy.digest)
            if known is not None:
                self._tell(trial, known)
            elif policy.digest in self._pending or policy.digest in self._repeated:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._pending[policy.digest] = trial
                return self._job(trial, policy)
        self.ended = EXHAUSTED
        return None

    def learn(self, record: CandidateRecord) -> None:
        """Take the record of a proposed candidate."""
        self._known[record.digest] = record
        if record.digest in self._repeated:
            self._repeated.remove(record.digest)
            self._study.add_trial(seen_trial(self.phase.context, record, self.phase.signal))
        else:
            self._tell(self._pending.pop(record.digest), record)
        if self.phase.board is not None:
            self.phase.board.add(record)

    def _job(self, trial: Trial, policy: Policy) -> Job:
        number, self._next = self._next, self._next + 1
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        proposed = None if self._learned is None else self._learned.proposal(trial.number)
        warm = "fixed_params" in frozen.system_attrs
        return Job(
            number,
            policy,
            self.phase.context.fidelity,
            proposal_of(frozen),
            origin=("warm_start" if warm else "sampler") if proposed is None else proposed.origin,
            predicted={} if proposed is None else {name: dict(figures) for name, figures in proposed.predicted.items()},
            rungs=self._rungs(),
        )

    def _rungs(self) -> Rungs | None:
        return None if self.phase.board is None else self.phase.board.rungs()

    def _tell(self, trial: Trial, record: CandidateRecord) -> None:
        for name, value in attributes_of(record, self.phase.signal).items():
            trial.set_user_attr(name, value)
        if record.state == "complete":
            for expression, violation in violations_of(self.phase.context.constraints, record).items():
                trial.set_constraint(expression, violation)
            self._study.tell(trial, [record.values[name] for name in self._names])
            return
        self._report(trial, record)
        self._study.tell(trial, state=STATES[record.state])

    def _report(self, trial: Trial, record: CandidateRecord) -> None:
        """Store a stopped candidate's reports, which `Trial.report` refuses where there are several objectives."""
        study = self._storage.get_study_id_from_name(self._study.study_name)
        known = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
        for report in record.reports:
            self._storage.set_trial_intermediate_value(known, report.step, report.value)


def run_loop(
    searcher: Searcher,
    executor: Executor,
    stop: Callable[[], str | None],
    evaluations: int,
    underway: Underway | None = None,
) -> Iterator[CandidateRecord]:
    """Evaluate candidates and yield each record once it is on disk and learnt from; `searcher.ended` tells why it ends.

    As many candidates are under way as the executor takes: one that comes back is replaced at once.

    Args:
        searcher: Proposes and learns.
        executor: Evaluates.
        stop: Asked before each proposal; a reason ends the search.
        evaluations: Candidates still wanted.
        underway: Where it is noted what was submitted; None = nowhere.
    """
    left, count = evaluations, 0
    while True:
        while executor.free and not searcher.ended:
            searcher.ended = EVALUATIONS if left <= 0 else stop() or ""
            job = None if searcher.ended else searcher.propose()
            if job is not None:
                if underway is not None:
                    underway.add(job)
                executor.submit(job)
                left, count = left - 1, count + 1
        if not count:
            return
        for record in executor.collect():
            count -= 1
            searcher.learn(record)
            if underway is not None:
                underway.remove(record.id)
            yield record


def seen_trial(context: SamplerContext, record: CandidateRecord, signal: str | None) -> FrozenTrial:
    """Return the trial of a record as a sampler sees it: with constraints, and with the task's smooth metric."""
    trial = trial_of(record, [o.name for o in context.objectives], signal=signal)
    if record.state == "complete":
        for expression, violation in violations_of(context.constraints, record).items():
            trial.set_constraint(expression, violation)
    return trial


def violations_of(constraints: Constraints | None, record: CandidateRecord) -> dict[str, float]:
    """Return expression -> violation of a complete record, <= 0 where it holds; None demands nothing."""
    if constraints is None:
        return {}
    evaluation: Mapping[str, Any] = record.evaluation or {}
    quality = {name: interval["value"] for name, interval in evaluation["quality"]["val"].items()}
    latency_ms = record.values.get("latency_ms", evaluation["latency"][constraints.target]["ms"])
    return constraints.violations({**quality, **evaluation["cost"]}, latency_ms)


def policy_of(record: CandidateRecord) -> Policy:
    """Return the policy that a record holds."""
    return Policy.from_json(record.policy)


def directions_of(objectives: Sequence[Objective]) -> list[str]:
    """Return Optuna's directions of the objectives."""
    return ["maximize" if o.direction == "max" else "minimize" for o in objectives]
