"""What a run knows so far: its records, the front and the figures of every stage; and telling those who watch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoprune.pareto import knee, non_dominated
from autoprune.predictor.trust import Outcome, TrustLog, kendall_tau
from autoprune.records import CandidateRecord, Fidelity
from autoprune.search.callbacks import Callback, Progress, Stage
from autoprune.search.directory import EventLog
from autoprune.search.objectives import Objective, minimised

FEWEST_PREDICTIONS, MOST_PREDICTIONS = 10, 300
STAGES: Mapping[Fidelity, Stage] = {"proxy": "proxy", "short": "search", "full": "finalists"}


@dataclass
class Tally:
    """Figures of one stage, kept up to date a record at a time.

    Args:
        objectives: What is optimised.
        done: Finished candidates.
        failed: Those that failed.
        stopped: Those that were stopped at a rung.
        complete: Those that were measured.
        seconds: Wall seconds of the complete ones.
        cpu_seconds: Processor seconds of the complete ones.
        prune_seconds: Wall seconds of their pruning and recovery.
        front: Non-dominated complete records, by the last objective; of several recovery seeds the first.
        predictions: (predicted, measured) first objective, in order; finalists leave no pair here.
    """

    objectives: Sequence[Objective]
    done: int = 0
    failed: int = 0
    stopped: int = 0
    complete: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    prune_seconds: float = 0.0
    front: list[CandidateRecord] = field(default_factory=list)
    predictions: list[tuple[float, float]] = field(default_factory=list)

    def add(self, record: CandidateRecord) -> None:
        """Take a record."""
        self.done += 1
        self.failed += record.state == "failed"
        self.stopped += record.state == "stopped"
        if record.state == "complete":
            self.complete += 1
            self.seconds += record.seconds
            self.cpu_seconds += record.cpu_seconds
            self.prune_seconds += float((record.evaluation or {}).get("seconds", {}).get("prune", 0.0))
            predicted = record.predicted.get(self.objectives[0].name)
            if predicted is not None and record.fidelity != "full":
                self.predictions.append((float(predicted["mean"]), record.values[self.objectives[0].name]))
            if record.repeat == 0:
                self._compare(record)

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's of the newest predictions with what was measured afterwards; None before there is one."""
        newest = self.predictions[-MOST_PREDICTIONS:]
        return kendall_tau(*zip(*newest, strict=True)) if len(newest) >= FEWEST_PREDICTIONS else None

    def picks(self) -> dict[str, str]:
        """Return the most accurate, the balanced and the fastest candidate of the front."""
        if not self.front:
            return {}
        rows = minimised(self.objectives, [r.values for r in self.front])
        chosen = {"most_accurate": int(np.argmin(rows[:, 0])), "balanced": knee(rows), "fastest": 0}
        return {name: self.front[index].id for name, index in chosen.items()}

    def _compare(self, record: CandidateRecord) -> None:
        joined = [*self.front, record]
        mask = non_dominated(minimised(self.objectives, [r.values for r in joined]))
        if mask[-1]:
            kept = [r for r, on in zip(joined, mask, strict=True) if on]
            self.front = sorted(kept, key=lambda r: r.values[self.objectives[-1].name])


class Ledger:
    """The driver's records, with a tally a stage.

    Args:
        objectives: What is optimised.
        events: The run's log.
        callbacks: Who is told.
        workers: Candidates evaluated at the same time.
        apart: Whether candidates run in other processes than this one.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        events: EventLog,
        callbacks: Sequence[Callback],
        workers: int,
        *,
        apart: bool,
    ) -> None:
        self.records: dict[str, CandidateRecord] = {}
        self.tallies: dict[Stage, Tally] = {stage: Tally(objectives) for stage in (*STAGES.values(), "controls")}
        self._events = events
        self._callbacks = callbacks
        self._workers = workers
        self._apart = apart

    def load(self, records: Iterable[CandidateRecord]) -> None:
        """Take the records of earlier calls."""
        for record in records:
            self.keep(record)

    def keep(self, record: CandidateRecord) -> None:
        """Take a record; the dense model, number 0, counts in no stage."""
        if record.id not in self.records and record.number > 0:
            self.tallies[stage_of(record)].add(record)
        self.records[record.id] = record

    def searched(self, fidelity: Fidelity) -> list[CandidateRecord]:
        """Return the search's own records of a fidelity in order: no dense model, no control."""
        return [r for r in self.records.values() if r.fidelity == fidelity and r.number > 0 and not r.is_control]

    def finished_one(self, record: CandidateRecord, total: int) -> None:
        """Take a new record, log it and tell everyone; `total` are the candidates of its stage."""
        stage = stage_of(record)
        tally = self.tallies[stage]
        before = [r.id for r in tally.front]
        self.keep(record)
        if self._apart:
            self._events.workers_cpu_s += record.cpu_seconds
        self._events.add("candidate", id=record.id, number=record.number, state=record.state, fidelity=record.fidelity)
        if not self._callbacks:
            return
        progress = self.progress(stage, total)
        for callback in self._callbacks:
            callback.on_candidate_end(record, progress)
        if [r.id for r in tally.front] != before:
            for callback in self._callbacks:
                callback.on_front_update(progress)

    def progress(self, stage: Stage, total: int) -> Progress:
        """Return where a stage stands."""
        tally = self.tallies[stage]
        each = tally.seconds / tally.complete / self._workers if tally.complete else None
        return Progress(
            stage=stage,
            done=tally.done,
            total=total,
            failed=tally.failed,
            elapsed_s=self._events.elapsed,
            remaining_s=None if each is None else each * max(total - tally.done, 0),
            front=tuple((r.id, r.values) for r in tally.front),
            stopped=tally.stopped,
            rank_correlation=tally.rank_correlation,
            picks=tally.picks(),
        )


def stage_of(record: CandidateRecord) -> Stage:
    """Return the stage that a record belongs to."""
    return "controls" if record.is_control else STAGES[record.fidelity]


def trust_log(records: Iterable[CandidateRecord], objectives: Sequence[Objective]) -> TrustLog:
    """Return what came of the predictions of the first objective, in the order of the records."""
    first, log = objectives[0], TrustLog()
    for record in records:
        predicted = record.predicted.get(first.name)
        if record.state != "complete" or predicted is None or record.evaluation is None:
            continue
        mean, measured = first.sign * float(predicted["mean"]), first.sign * record.values[first.name]
        macs = float(record.evaluation["cost"]["macs"])
        log.append(Outcome(mean, float(predicted["std"]), measured, macs, record.number, record.fidelity))
    return log
