"""Trials of a study -> rows and values: all that the learned sampler knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from autoprune.requirements import Requirement
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.genome import Genome, Key, Rows, stack
from autoprune.search.objectives import COSTS

Floats = npt.NDArray[np.float64]

PREDICTED = "predicted"
FIXED = "fixed_params"


@dataclass(frozen=True)
class Memory:
    """What a sampler remembers of a study beside its trials; all by trial number.

    Args:
        predictions: Prediction of the first value, where the trial itself does not tell.
        handed: Row that was proposed: a trial under way may not have asked for all of it yet.
        rows: Rows of finished trials, so that they are encoded once.
    """

    predictions: dict[int, float] = field(default_factory=dict)
    handed: dict[int, Rows] = field(default_factory=dict)
    rows: dict[int, Rows | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Observations:
    """What the trials tell, in the order of their numbers.

    Args:
        rows: [n, D] candidates that were measured.
        values: [n, k] their values, in the study's order and the user's orientation.
        signal: [n] the task's smooth loss; NaN where it is unknown.
        violation: [n] by how much the worst constraint is violated, <= 0 where all hold.
        aside: Value that is limited without being an objective -> [n]; NaN where it is unknown.
        numbers: [n] their trial numbers.
        predicted: [n] first value as predicted before it was measured; NaN where nothing was predicted.
        pending: [p, D] candidates under way.
        pending_numbers: [p] their trial numbers.
        taken: Key of every candidate that was ever proposed, failed ones included -> number of its first trial.
        count: Number of all trials.
    """

    rows: Rows
    values: Floats
    signal: Floats
    violation: Floats
    aside: Mapping[str, Floats]
    numbers: Rows
    predicted: Floats
    pending: Rows
    pending_numbers: Rows
    taken: Mapping[Key, int]
    count: int

    def __len__(self) -> int:
        return len(self.rows)

    def before(self, begin: int) -> Observations:
        """Return what the trials before trial `begin` tell, as if no other had been proposed."""
        underway = self.pending_numbers < begin
        return replace(
            self.only(self.numbers < begin),
            pending=self.pending[underway],
            pending_numbers=self.pending_numbers[underway],
            taken={key: first for key, first in self.taken.items() if first < begin},
        )

    def only(self, which: npt.NDArray[np.bool_] | Rows) -> Observations:
        """Return some of the measured candidates; what is under way or taken stays."""
        return replace(
            self,
            rows=self.rows[which],
            values=self.values[which],
            signal=self.signal[which],
            violation=self.violation[which],
            aside={name: column[which] for name, column in self.aside.items()},
            numbers=self.numbers[which],
            predicted=self.predicted[which],
        )


def observe(
    trials: Iterable[FrozenTrial],
    genome: Genome,
    objectives: Sequence[str],
    demands: Mapping[str, Requirement] | None = None,
    *,
    current: int = -1,
    memory: Memory | None = None,
) -> Observations:
    """Return what trials tell; those outside of the space, or with values that are not finite, tell nothing.

    Args:
        trials: Of one study.
        genome: Rows of the space.
        objectives: Names of the values of a complete trial.
        demands: Expression -> bound, whose violation a trial tells.
        current: Number of the trial that is being asked for.
        memory: What is known of these trials beside; rows are added.
    """
    memory = memory or Memory()
    others = {text: bound for text, bound in (demands or {}).items() if bound.metric not in objectives}
    aside: dict[str, list[float]] = {bound.metric: [] for bound in others.values()}
    rows, values, signal, violation, numbers, predicted = [], [], [], [], [], []
    pending, underway, taken, count = list[Rows](), list[int](), dict[Key, int](), 0
    for trial in trials:
        if trial.number == current:
            continue
        count += 1
        row = row_of(trial, genome, memory)
        if row is None:
            continue
        taken.setdefault(row.tobytes(), trial.number)
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            pending.append(row)
            underway.append(trial.number)
        elif trial.state == TrialState.COMPLETE and _usable(trial.values, len(objectives)):
            rows.append(row)
            values.append([float(v) for v in trial.values or ()])
            signal.append(_number(trial.user_attrs.get(SIGNAL)))
            violation.append(max((float(v) for v in trial.constraints.values()), default=0.0))
            for name, column in aside.items():
                column.append(_limited(name, others, trial.constraints))
            numbers.append(trial.number)
            predicted.append(_expected(trial, objectives[0], memory))
    columns = len(genome.dimensions)
    return Observations(
        stack(rows, columns),
        np.array(values, dtype=np.float64).reshape(len(rows), len(objectives)),
        np.array(signal, dtype=np.float64),
        np.array(violation, dtype=np.float64),
        {name: np.array(column, dtype=np.float64) for name, column in aside.items()},
        np.array(numbers, dtype=np.int64),
        np.array(predicted, dtype=np.float64),
        stack(pending, columns),
        np.array(underway, dtype=np.int64),
        taken,
        count,
    )


def row_of(trial: FrozenTrial, genome: Genome, memory: Memory) -> Rows | None:
    """Return the row of a trial; None where it has none in this space."""
    if trial.number in memory.rows:
        return memory.rows[trial.number]
    if is_handed(trial, memory):
        return memory.handed[trial.number]
    row = genome.encode(trial.params) if trial.params else None
    if trial.state.is_finished():
        memory.rows[trial.number] = row
    return row


def is_handed(trial: FrozenTrial, memory: Memory) -> bool:
    """Tell whether a trial under way tries the row that was proposed for it."""
    return trial.state == TrialState.RUNNING and trial.number in memory.handed and FIXED not in trial.system_attrs


def measured_costs(seen: Observations, context: SamplerContext) -> dict[str, Floats]:
    """Return cost -> [n] what was measured of it, as an objective or beside them; NaN where unknown."""
    beside = {name: column for name, column in seen.aside.items() if name in COSTS}
    return beside | {o.name: seen.values[:, i] for i, o in enumerate(context.objectives) if o.name in COSTS}


def _limited(name: str, demands: Mapping[str, Requirement], violations: Mapping[str, float]) -> float:
    """Return a value by how much it violates one of its bounds; NaN where none is told."""
    told = (d.value(float(violations[text])) for text, d in demands.items() if d.metric == name and text in violations)
    return _number(next(told, None))


def _expected(trial: FrozenTrial, name: str, memory: Memory) -> float:
    """Return the prediction of a value as the trial tells it, else as remembered; NaN without any."""
    found = trial.user_attrs.get(PREDICTED)
    figures = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(figures, Mapping):
        return _number(figures.get("mean"))
    return memory.predictions.get(trial.number, math.nan)


def _usable(values: Sequence[float] | None, objectives: int) -> bool:
    return values is not None and len(values) == objectives and all(math.isfinite(v) for v in values)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
