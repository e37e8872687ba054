"""Trials of a study -> rows and values: all that the learned sampler knows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.context import SIGNAL
from autoprune.search.genome import Genome, Key, Rows, stack

Floats = npt.NDArray[np.float64]

PREDICTED = "predicted"


@dataclass(frozen=True)
class Observations:
    """What the trials tell, in the order of their numbers.

    Args:
        rows: [n, D] candidates that were measured.
        values: [n, k] their values, in the study's order and the user's orientation.
        signal: [n] the task's smooth loss; NaN where it is unknown.
        violation: [n] by how much the worst constraint is violated, <= 0 where all hold.
        numbers: [n] their trial numbers.
        predicted: [n] first value as predicted before it was measured; NaN where nothing was predicted.
        pending: [p, D] candidates under way.
        taken: Key of every candidate that was ever proposed, failed ones included -> number of its first trial.
        count: Number of all trials.
    """

    rows: Rows
    values: Floats
    signal: Floats
    violation: Floats
    numbers: Rows
    predicted: Floats
    pending: Rows
    taken: Mapping[Key, int]
    count: int

    def __len__(self) -> int:
        return len(self.rows)

    def before(self, number: int) -> Observations:
        """Return what was measured of the trials with smaller numbers; the others of them count as under way."""
        known = self.numbers < number
        return replace(
            self.only(known),
            pending=np.vstack([self.pending, self.rows[~known]]),
            taken={key: first for key, first in self.taken.items() if first < number},
        )

    def only(self, which: npt.NDArray[np.bool_] | Rows) -> Observations:
        """Return some of the measured candidates; what is under way or taken stays."""
        return replace(
            self,
            rows=self.rows[which],
            values=self.values[which],
            signal=self.signal[which],
            violation=self.violation[which],
            numbers=self.numbers[which],
            predicted=self.predicted[which],
        )


def observe(
    trials: Iterable[FrozenTrial],
    genome: Genome,
    objectives: Sequence[str],
    *,
    current: int = -1,
    predictions: Mapping[int, float] = MappingProxyType({}),
    memo: dict[int, Rows | None] | None = None,
) -> Observations:
    """Return what trials tell; those outside of the space, or with values that are not finite, tell nothing.

    Args:
        trials: Of one study.
        genome: Rows of the space.
        objectives: Names of the values of a complete trial.
        current: Number of the trial that is being asked for.
        predictions: Trial number -> prediction of the first value, where the trial itself does not tell.
        memo: Rows of finished trials by number, so that they are encoded once; filled here.
    """
    rows, values, signal, violation, numbers, predicted = [], [], [], [], [], []
    pending, taken, count = list[Rows](), dict[Key, int](), 0
    for trial in trials:
        if trial.number == current:
            continue
        count += 1
        row = _row(trial, genome, memo)
        if row is None:
            continue
        taken.setdefault(row.tobytes(), trial.number)
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            pending.append(row)
        elif trial.state == TrialState.COMPLETE and _usable(trial.values, len(objectives)):
            rows.append(row)
            values.append([float(v) for v in trial.values or ()])
            signal.append(_number(trial.user_attrs.get(SIGNAL)))
            violation.append(max((float(v) for v in trial.constraints.values()), default=0.0))
            numbers.append(trial.number)
            expected = trial.user_attrs.get(PREDICTED, {}).get(objectives[0], {}).get("mean")
            predicted.append(_number(predictions.get(trial.number) if expected is None else expected))
    columns = len(genome.dimensions)
    return Observations(
        stack(rows, columns),
        np.array(values, dtype=np.float64).reshape(len(rows), len(objectives)),
        np.array(signal, dtype=np.float64),
        np.array(violation, dtype=np.float64),
        np.array(numbers, dtype=np.int64),
        np.array(predicted, dtype=np.float64),
        stack(pending, columns),
        taken,
        count,
    )


def _row(trial: FrozenTrial, genome: Genome, memo: dict[int, Rows | None] | None) -> Rows | None:
    """Return the row of a trial; None where it has none in this space."""
    if memo is not None and trial.number in memo:
        return memo[trial.number]
    row = genome.encode(trial.params) if trial.params else None
    if memo is not None and trial.state.is_finished():
        memo[trial.number] = row
    return row


def _usable(values: Sequence[float] | None, objectives: int) -> bool:
    return values is not None and len(values) == objectives and all(math.isfinite(v) for v in values)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
