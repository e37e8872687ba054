"""Who searches in the benchmarks: (task, seed, budget) -> the points evaluated, in order.

Every evaluation counts, those of sensitivities and of start points too. A point that was evaluated before in the same
search is told to the sampler again without being counted, as a search with a cache would do; a search ends when it
has repeated itself twice as often as its budget. Optuna's samplers minimise the error and the logarithm of the MACs,
the two scales on which the hypervolume is measured.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from autoprune.pruning.criteria import normalized
from autoprune.search.context import SIGNAL
from autoprune.search.sampler import AutopruneSampler, SamplerOptions
from autoprune.search.study import quiet_optuna
from autoprune.space import CRITERION_PREFIX, LEVEL_PREFIX
from benchmarks.search_tasks import LEVELS, Outcome, Params, SearchTask, search_task

POPULATION = 50
STRATUM_SPREAD = 1.5
THRESHOLDS = 20
GP_EVALUATIONS = 100
GP_PATIENCE_S = 3.0
PROXY_EVALUATIONS = 120
INITIAL = ("sensitivity", "seeding")
ASKS = 3


@dataclass(frozen=True)
class Point:
    """One evaluation of a search.

    Args:
        params: What was evaluated.
        outcome: What came out.
        overhead_s: CPU seconds that the sampler took to propose it, and whatever it repeated before.
        origin: Which part of the sampler proposed it.
    """

    params: Params
    outcome: Outcome
    overhead_s: float
    origin: str = ""


@dataclass
class Ledger:
    """Counts what a search evaluates.

    Args:
        task: Gives the outcomes.
        budget: Evaluations that the search may make.
    """

    task: SearchTask
    budget: int
    points: list[Point] = field(default_factory=list)
    _seen: dict[str, Outcome] = field(default_factory=dict)
    _owed_s: float = 0.0

    @property
    def full(self) -> bool:
        """Whether the budget is spent."""
        return len(self.points) >= self.budget

    def evaluate(self, params: Params, *, overhead_s: float = 0.0, origin: str = "") -> Outcome:
        """Return the outcome; a point of this search that is new counts."""
        digest = self.task.space.policy_of(params).digest
        self._owed_s += overhead_s
        if digest not in self._seen:
            self._seen[digest] = self.task.evaluate(params)
            self.points.append(Point(dict(params), self._seen[digest], self._owed_s, origin))
            self._owed_s = 0.0
        return self._seen[digest]

    def evaluate_all(self, proposals: Iterable[Params]) -> list[Point]:
        """Evaluate proposals until they or the budget end, and return all points."""
        for params in proposals:
            if self.full:
                break
            self.evaluate(params)
        return self.points


Sampler = Callable[[SearchTask, int, int], list[Point]]
Steps = npt.NDArray[np.int64]


def random(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Draw every dimension uniformly."""
    rng = np.random.default_rng(seed)
    return Ledger(task, budget).evaluate_all(_drawn(task, rng, _any_level) for _ in range(ASKS * budget))


def stratified(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Draw one level for all groups, then every group's near it: the range of cost is covered evenly."""
    rng = np.random.default_rng(seed)
    return Ledger(task, budget).evaluate_all(stratified_params(task, rng) for _ in range(ASKS * budget))


def stratified_params(task: SearchTask, rng: np.random.Generator) -> dict[str, Any]:
    """Return one draw of `stratified`."""
    return _drawn(task, rng, _near_level)


def uniform(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Sweep one sparsity of all groups, for each criterion."""
    del seed
    shares = np.linspace(0.0, task.space.spec.sparsity.max, LEVELS)
    sweep = (
        task.space.uniform(float(share), **_criterion_of_all(task, criterion))
        for criterion in task.space.criteria()
        for share in shares
    )
    return Ledger(task, budget).evaluate_all(sweep)


def global_ranking(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Sweep one threshold on the importance of all units, each divided by its group's mean, for each criterion."""
    del seed
    return Ledger(task, budget).evaluate_all(_global_sweep(task))


def nsga2(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Evolve a population of 50 by Optuna."""
    return by_optuna(task, NSGAIISampler(population_size=POPULATION, seed=seed), budget)


def tpe(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Model good and bad points by densities, by Optuna."""
    return by_optuna(task, TPESampler(seed=seed), budget)


def gaussian_process(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Maximise the expected hypervolume improvement of Gaussian processes, by Optuna, while that is practical."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = GPSampler(seed=seed, deterministic_objective=True)
    return by_optuna(task, sampler, min(budget, GP_EVALUATIONS), patience_s=GP_PATIENCE_S)


def nsga2_seeded(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Evolve a population of 50 by Optuna from our own first points."""
    start = initial_points(task, seed, budget)
    return by_optuna(task, NSGAIISampler(population_size=POPULATION, seed=seed), budget, start=start)


def tpe_seeded(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Model good and bad points by densities, by Optuna, from our own first points."""
    return by_optuna(task, TPESampler(seed=seed), budget, start=initial_points(task, seed, budget))


def ours(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Search as `sampler: autoprune` does; recovered fidelities begin with a proxy search, which counts in seconds."""
    return _ours(task, seed, budget, SamplerOptions())


def ours_without_predictor(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Search as ours, by mutation of the front alone."""
    return _ours(task, seed, budget, SamplerOptions(predictor=False))


def ours_without_seeding(task: SearchTask, seed: int, budget: int) -> list[Point]:
    """Search as ours, from points spread over the cost instead of sensitivities and an additive front."""
    return _ours(task, seed, budget, SamplerOptions(seeding=False))


SAMPLERS: Mapping[str, Sampler] = {
    "ours": ours,
    "ours_without_predictor": ours_without_predictor,
    "ours_without_seeding": ours_without_seeding,
    "random": random,
    "stratified": stratified,
    "uniform": uniform,
    "global_ranking": global_ranking,
    "nsga2": nsga2,
    "tpe": tpe,
    "gp": gaussian_process,
    "nsga2_seeded": nsga2_seeded,
    "tpe_seeded": tpe_seeded,
}
OWN = ("ours", "ours_without_predictor", "ours_without_seeding", "nsga2_seeded", "tpe_seeded")
"""Samplers whose points depend on our own code."""


def by_optuna(
    task: SearchTask,
    sampler: BaseSampler,
    budget: int,
    *,
    start: Sequence[Params] = (),
    patience_s: float | None = None,
) -> list[Point]:
    """Search by one of Optuna's samplers.

    Args:
        task: What is searched.
        sampler: Who proposes.
        budget: Evaluations.
        start: Points to begin with; they count.
        patience_s: The search ends when a proposal takes more CPU seconds than this.
    """
    ledger = Ledger(task, budget)
    with quiet_optuna():
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        for params in start:
            study.enqueue_trial(dict(params))
        for _ in range(ASKS * budget):
            began = time.process_time()
            trial = study.ask()
            task.space.suggest(trial)
            spent = time.process_time() - began
            if ledger.full or (patience_s is not None and spent > patience_s):
                break
            outcome = ledger.evaluate(trial.params, overhead_s=spent)
            study.tell(trial, [outcome.error, float(np.log10(outcome.macs_share))])
    return ledger.points


@dataclass
class OwnSearch:
    """A search by our own sampler, point by point, as others drive it: by ask and tell.

    It is told the dense network's figures, which a run always measures; here that is its first evaluation.

    Args:
        task: What is searched.
        seed: Of the sampler.
        budget: Evaluations.
        options: Parts of the sampler that are switched off.
        prior: Trials of a search at lower fidelity.
    """

    task: SearchTask
    seed: int
    budget: int
    options: SamplerOptions = field(default_factory=SamplerOptions)
    prior: Sequence[FrozenTrial] = ()

    def __post_init__(self) -> None:
        context = self.task.context(self.seed, self.budget, prior=tuple(self.prior))
        self.sampler = AutopruneSampler(context, self.options)
        with quiet_optuna():
            self.study = optuna.create_study(directions=["maximize", "minimize"], sampler=self.sampler)
        self.ledger = Ledger(self.task, self.budget)
        self.ledger.evaluate(self.task.space.uniform(0.0), origin="dense")

    def run(self) -> list[Point]:
        """Evaluate until the budget ends, whatever the sampler's stopping rule says."""
        with quiet_optuna():
            for _ in self.trials():
                pass
        return self.ledger.points

    def trials(self) -> Iterator[tuple[Trial, Outcome]]:
        """Yield every trial as soon as it is told."""
        for _ in range(ASKS * self.budget):
            if self.ledger.full:
                return
            began = time.process_time()
            trial = self.study.ask()
            self.task.space.suggest(trial)
            spent = time.process_time() - began
            proposal = self.sampler.proposal(trial.number)
            origin = "" if proposal is None else proposal.origin
            outcome = self.ledger.evaluate(trial.params, overhead_s=spent, origin=origin)
            trial.set_user_attr(SIGNAL, outcome.cross_entropy)
            self.study.tell(trial, [1.0 - outcome.error, outcome.macs_share * self.task.dense_macs])
            yield trial, outcome


def initial_points(task: SearchTask, seed: int, budget: int) -> list[Params]:
    """Return the points that our sampler evaluates before it searches: sensitivities and additive front."""
    search = OwnSearch(task, seed, budget)
    with quiet_optuna():
        for _ in search.trials():
            if search.ledger.points[-1].origin not in INITIAL:
                break
    return [point.params for point in search.ledger.points if point.origin in INITIAL]


def proxy_search(task: SearchTask, seed: int) -> OwnSearch:
    """Return the finished proxy search that precedes a search at higher fidelity."""
    search = OwnSearch(search_task(task.name, "proxy"), seed, PROXY_EVALUATIONS)
    search.run()
    return search


def _ours(task: SearchTask, seed: int, budget: int, options: SamplerOptions) -> list[Point]:
    if task.fidelity == "proxy":
        return OwnSearch(task, seed, budget, options).run()
    before = proxy_search(task, seed)
    spent = sum(p.outcome.seconds + p.overhead_s for p in before.ledger.points)
    first, *others = OwnSearch(task, seed, budget, options, before.study.trials).run()
    return [Point(first.params, first.outcome, first.overhead_s + spent, first.origin), *others]


def _drawn(
    task: SearchTask, rng: np.random.Generator, levels: Callable[[np.random.Generator, Steps], Steps]
) -> dict[str, Any]:
    """Return one draw of every dimension; `levels` draws the groups' steps, given their largest."""
    found = task.space.distributions()
    ordered = {name: d for name, d in found.items() if isinstance(d, IntDistribution)}
    steps = levels(rng, np.array([d.high for d in ordered.values()]))
    params: dict[str, Any] = {name: int(step) for name, step in zip(ordered, steps, strict=True)}
    for name, dist in found.items():
        if isinstance(dist, CategoricalDistribution):
            params[name] = dist.choices[int(rng.integers(len(dist.choices)))]
    return params


def _any_level(rng: np.random.Generator, highest: Steps) -> Steps:
    return rng.integers(0, highest + 1)


def _near_level(rng: np.random.Generator, highest: Steps) -> Steps:
    centre = rng.uniform() * highest
    return np.clip(np.rint(centre + rng.normal(0.0, STRATUM_SPREAD, len(highest))), 0, highest).astype(np.int64)


def _criterion_of_all(task: SearchTask, criterion: str) -> dict[str, str]:
    if task.space.spec.strategy.criterion.per_group:
        return {CRITERION_PREFIX + name: criterion for name in task.names}
    return {"criterion": criterion}


def _global_sweep(task: SearchTask) -> Iterator[Params]:
    for criterion in (name for name in task.space.criteria() if name != "random"):
        scores = normalized(task.pruner.scores(criterion), task.groups)
        found = [task.groups[g.name] for g in task.space.groups]
        own = {g.name: scores[g.start : g.start + g.width] for g in found}
        pooled = np.concatenate(list(own.values()))
        for share in np.linspace(0.05, 0.95, THRESHOLDS):
            least = np.quantile(pooled, share)
            params: dict[str, Any] = _criterion_of_all(task, criterion)
            for name, values in own.items():
                gaps = np.abs(np.array(task.space.widths[name]) - int((values > least).sum()))
                params[LEVEL_PREFIX + name] = int(gaps.argmin())
            yield params
