"""Promotion: which briefly trained candidate is worth its remaining steps, told by its like at the same step.

Asynchronous successive halving (Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020) with the
rank of several objectives by non-dominated sorting (Schmucker et al., Multi-objective Asynchronous Successive Halving,
2021). What is known at the rungs travels in the job, so that it works alike in this process and in others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from autoprune.config.model import RecoveryConfig
from autoprune.errors import CandidateError
from autoprune.pareto import non_dominated
from autoprune.records import CandidateRecord, Report

if TYPE_CHECKING:
    from torch import nn

FEWEST_FACTOR = 2
MOST_POINTS = 600


class RungPoint(NamedTuple):
    """A candidate at a rung: steps taken, value on val (minimised), multiply-accumulates."""

    step: int
    value: float
    macs: float


@dataclass(frozen=True)
class Rungs:
    """When a candidate is looked at while it trains, and what others showed there.

    Args:
        steps: Optimizer steps after which to look, ascending.
        reduction: One in so many passes a rung for sure.
        points: Other candidates at any of these steps.
    """

    steps: tuple[int, ...]
    reduction: int
    points: tuple[RungPoint, ...] = ()


class RungBoard:
    """The driver's side: what all candidates of a phase have reported so far.

    Args:
        steps: Optimizer steps after which candidates report.
        reduction: One in so many passes a rung for sure.
        records: Candidates of earlier calls.
    """

    def __init__(self, steps: Sequence[int], reduction: int, records: Iterable[CandidateRecord] = ()) -> None:
        self._steps = tuple(steps)
        self._reduction = reduction
        self._points: list[RungPoint] = []
        for record in records:
            self.add(record)

    def add(self, record: CandidateRecord) -> None:
        """Take the reports of a finished candidate."""
        cost = (record.evaluation or {}).get("cost")
        if cost is not None:
            self._points += [RungPoint(r.step, r.value, float(cost["macs"])) for r in record.reports]

    def rungs(self) -> Rungs:
        """Return what a job takes along: at most the newest few hundred points."""
        return Rungs(self._steps, self._reduction, tuple(self._points[-MOST_POINTS:]))


class RungWatch:
    """The worker's side: looks at a model while it trains, and asks the loop to stop when it is poor.

    A loop that ignores the request trains on; its candidate then counts as any other.

    Args:
        rungs: When to look, and what others showed.
        probe: Model in training -> (value on val, minimised; multiply-accumulates); leaves the model as it was.
    """

    def __init__(self, rungs: Rungs, probe: Callable[[nn.Module], tuple[float, float]]) -> None:
        self._rungs = rungs
        self._probe = probe
        self._poor = False
        self._taken = 0
        self.reports: list[Report] = []

    def on_step(self, model: nn.Module, step: int) -> None:
        """Look at the model if this step, counted from 0, ends at a rung.

        Raises:
            CandidateError: The model's value on val is not finite.
        """
        self._taken = step + 1
        if self._taken not in self._rungs.steps or self._poor:
            return
        value, macs = self._probe(model)
        if not math.isfinite(value):
            raise CandidateError(
                f"The value on val is {value} after {self._taken} steps.", reason="nonfinite", stage="recover"
            )
        self.reports.append(Report(self._taken, value))
        self._poor = is_poor(RungPoint(self._taken, value, macs), self._rungs.points, self._rungs.reduction)

    def on_report(self, step: int, loss: float) -> bool:
        """Tell the training loop whether to go on; its own losses are not compared."""
        del step, loss
        return not self._poor

    def ended_early(self, steps: int) -> bool:
        """Tell whether a training of so many steps was stopped at a rung."""
        return self._poor and self._taken < steps


def rung_steps(budget: RecoveryConfig) -> tuple[int, ...]:
    """Return the steps after which a briefly recovered candidate is looked at."""
    steps = {round(share * budget.short_steps) for share in budget.rungs}
    return tuple(sorted(s for s in steps if 0 < s < budget.short_steps))


def is_poor(point: RungPoint, known: Iterable[RungPoint], reduction: int) -> bool:
    """Tell whether a candidate is outside the best `1 / reduction` of those known at its step, itself included.

    False with fewer than twice `reduction` others: too few to tell.
    """
    rivals = [p for p in known if p.step == point.step]
    if len(rivals) < FEWEST_FACTOR * reduction:
        return False
    ranks = _front_numbers(np.array([(p.value, p.macs) for p in (point, *rivals)], dtype=np.float64))
    better = int((ranks < ranks[0]).sum())
    return better >= len(ranks) / reduction


def _front_numbers(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return [n] the number of the non-dominated front that each row of `values` [n, k] lies on, from 0."""
    numbers = np.zeros(len(values), dtype=np.int64)
    left, number = np.arange(len(values)), 0
    while len(left):
        front = non_dominated(values[left])
        numbers[left[front]] = number
        left, number = left[~front], number + 1
    return numbers
