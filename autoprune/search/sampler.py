"""Space and trials -> the next candidate: the learned search as an ordinary Optuna sampler."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.search.context import SamplerContext
from autoprune.search.observations import Memory, Observations, is_handed, observe, row_of
from autoprune.search.planner import Planned, Planner, SamplerOptions

__all__ = ["AutopruneSampler", "Proposal", "SamplerOptions"]


@dataclass(frozen=True)
class Proposal:
    """Who proposed a trial, and what is expected of it.

    Args:
        origin: `sensitivity`, `seeding`, `infill` or `explore`.
        predicted: Objective -> `mean`, `std` and `at_evaluation`; empty where nothing was predicted.
    """

    origin: str
    predicted: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class AutopruneSampler(BaseSampler):
    """Proposes pruning policies by a learned accuracy predictor and known cost.

    The stages: each group alone, an additive front through what that tells, then batches by the hypervolume
    improvement of the predicted mean. Proposals are a function of (space, trials, seed) alone, where trials keep their
    predictions as the user attribute `predicted`; `docs/search.md` tells the whole method. It serves ask/tell,
    `study.optimize` and several threads.

    Args:
        context: Space, costs, objectives and budget of the study.
        options: Parts to leave out and sizes to change.
    """

    def __init__(self, context: SamplerContext, options: SamplerOptions | None = None) -> None:
        self.context = context
        self.options = options or SamplerOptions()
        self._planner = Planner(context, self.options)
        self._proposals: dict[int, Proposal] = {}
        self._queue: deque[Planned] = deque()
        self._study = ""
        self._read = 0
        self._unread: list[int] = []
        self._keys: set[bytes] = set()
        self._memory = Memory()
        self._independent = RandomSampler(seed=context.seed)
        self._lock = threading.Lock()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every dimension of the space."""
        del study, trial
        return self.context.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the next candidate."""
        if not search_space:
            return {}
        with self._lock:
            planned = self._next(study, trial.number)
            self._proposals[trial.number] = Proposal(planned.origin, planned.predicted)
            self._memory.handed[trial.number] = planned.row
            first = self.context.objectives[0].name
            if first in planned.predicted:
                self._memory.predictions[trial.number] = planned.predicted[first]["mean"]
        params = self._planner.genome.decode(planned.row)
        return {name: value for name, value in params.items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter that is no dimension of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Do nothing: proposals follow from the trials, so that processes differ by what they know."""

    def proposal(self, trial_number: int) -> Proposal | None:
        """Return what is known of a trial that this object proposed; None of any other."""
        return self._proposals.get(trial_number)

    def finished(self, study: Study) -> str | None:
        """Return `plateau` or `exhausted` when going on is not worth it, else None."""
        with self._lock:
            if not self._queue or self._study != study.study_name:
                self._refill(study, -1)
            if not self._queue:
                return "exhausted"
        return "plateau" if self._planner.plateau else None

    def fallback_reason(self) -> str | None:
        """Return why it proposes without its predictor; None while it uses it."""
        return self._planner.fallback

    def weights(self) -> Mapping[str, float]:
        """Return member of the ensemble -> its weight; empty while all count the same."""
        return dict(self._planner.weights)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: all but the lock."""
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled sampler."""
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def _next(self, study: Study, current: int) -> Planned:
        """Return the next candidate that no trial has; once all were tried, the dense model again."""
        if self._study == study.study_name:
            taken = self._taken_keys(study, current)
            while self._queue:
                planned = self._queue.popleft()
                if planned.row.tobytes() not in taken:
                    return planned
        self._refill(study, current)
        if self._queue:
            return self._queue.popleft()
        return Planned(self._planner.genome.dense(), "explore", {})

    def _taken_keys(self, study: Study, current: int) -> set[bytes]:
        """Return the keys of all trials but the current one; each is read until what it tries is certain."""
        trials = study.get_trials(deepcopy=False)
        numbers, self._unread = [*self._unread, *range(self._read, len(trials))], []
        self._read = len(trials)
        for trial in (trials[number] for number in numbers):
            row = None if trial.number == current else row_of(trial, self._planner.genome, self._memory)
            if row is not None:
                self._keys.add(row.tobytes())
            if not trial.state.is_finished() and (row is None or not is_handed(trial, self._memory)):
                self._unread.append(trial.number)
        return self._keys

    def _refill(self, study: Study, current: int) -> None:
        trials = study.get_trials(deepcopy=False)
        if self._study != study.study_name:
            self._memory, self._read, self._unread = Memory(), 0, []
            self._proposals.clear()
            self._keys.clear()
        self._study = study.study_name
        self._queue = deque(self._planner.plan(self._observe(trials, current)))

    def _observe(self, trials: list[FrozenTrial], current: int) -> Observations:
        names = [o.name for o in self.context.objectives]
        demands = self.context.demands
        return observe(trials, self._planner.genome, names, demands, current=current, memory=self._memory)
