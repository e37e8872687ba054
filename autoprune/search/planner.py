"""Observations -> the next candidates: probes, seeds, then batches that the predictor expects to improve the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from autoprune.pareto import hypervolume
from autoprune.predictor.additive import USUAL_POWER, AdditiveModel
from autoprune.predictor.targets import Target
from autoprune.predictor.trust import better_than_prior
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.encoding import encoder_of
from autoprune.search.evolution import Evolution, best_rows, evolve, mutate
from autoprune.search.expectation import CostForecast, Expectation
from autoprune.search.genome import Genome, Rows
from autoprune.search.infill import choose_batch, gain
from autoprune.search.objectives import COSTS
from autoprune.search.observations import Observations, measured_costs
from autoprune.search.prior import Prior
from autoprune.search.seeding import perturbed_rows, seed_rows
from autoprune.search.sensitivity import additive_model, plain_row, probe_rows, removed_shares
from autoprune.search.training import MOST, training_subset

Floats = npt.NDArray[np.float64]

STRATIFIED = 20
PARENTS = 40
NEWCOMERS = 20
BATCHES_LOOKED_BACK = 3
NO_GAIN = 0.005
BEFORE_PLATEAU = 30
TRUSTED_FROM = 40
JUDGED = 80
MANY_ROWS = 100_000
CLEARLY = 0.15


@dataclass(frozen=True)
class SamplerOptions:
    """Parts of the search that can be left out, and its sizes.

    Args:
        predictor: Whether batches are chosen by the ensemble; else by local search around the front.
        seeding: Whether probes and the additive front come first; else candidates spread over the range of cost.
        seeds: Candidates of the additive front.
        batch: Candidates between two fits, at least.
        explore: Standard deviations of optimism about quality.
        draws: Perturbed additive fronts a batch.
        evolution: Size of the inner search.
    """

    predictor: bool = True
    seeding: bool = True
    seeds: int = 6
    batch: int = 5
    explore: float = 0.0
    draws: int = 6
    evolution: Evolution = field(default_factory=Evolution)


@dataclass(frozen=True)
class Planned:
    """A candidate to be proposed: its row, who wants it, and what is expected of it."""

    row: Rows
    origin: str
    predicted: Mapping[str, Mapping[str, float]]


class Planner:
    """Plans the candidates that come next.

    Args:
        context: The phase.
        options: Parts and sizes.

    Attributes:
        plateau: Whether the last batch promised as little as the batches before it brought.
        fallback: Why the predictor is not used; None while it is.
        weights: Weights of the ensemble's members.
    """

    def __init__(self, context: SamplerContext, options: SamplerOptions) -> None:
        self.context = context
        self.options = options
        self.genome = Genome(context.space)
        self.prior = Prior.of(context)
        self.plateau = False
        self.fallback: str | None = None
        self.weights: Mapping[str, float] = {}
        self._seeded: tuple[tuple[bytes, ...], Rows] | None = None

    def plan(self, seen: Observations) -> list[Planned]:
        """Return the next candidates in order, none of them tried before; none at all when the space is used up.

        Probes under way when the first seeds are asked for change the other seeds, not how many there are.
        """
        new = self._new(self._probes, seen)
        if new:
            return [Planned(row, "sensitivity", {}) for row in new]
        probed = _end(self._probes, seen)
        seeds = self._seeds(seen.before(probed))
        new = self._new(seeds, seen)
        if new and (len(self._probes) == 0 or seen.count < probed + len(seeds)):
            return [Planned(row, "seeding", {}) for row in new]
        begin = self._begin(max(probed, _end(seeds, seen)), seen.count)
        planned = self._batch(seen.before(begin), begin)
        left = [p for p in planned if p.row.tobytes() not in seen.taken]
        return left or [Planned(row, "explore", {}) for row in self._untried(seen, begin)]

    def _new(self, rows: Rows, seen: Observations) -> list[Rows]:
        return [rows[i] for i, key in enumerate(self.genome.keys(rows)) if key not in seen.taken]

    @cached_property
    def _probes(self) -> Rows:
        """Rows of the sensitivity pass that are evaluated; the dense model only where it is unknown."""
        rows = probe_rows(self.genome)
        if not self.options.seeding or not self._probing:
            return rows[:0]
        known = SIGNAL in self.context.dense and self.context.objectives[0].name in self.context.dense
        return rows[1:] if known else rows

    @cached_property
    def _probing(self) -> bool:
        """Whether each group is tried alone: not where an earlier phase did, nor with too few evaluations for it.

        Nor where no group has a level of its own.
        """
        return self.genome.free and self.prior is None and 2 * len(probe_rows(self.genome)) <= self.context.evaluations

    def _seeds(self, seen: Observations) -> Rows:
        """Return the first candidates by what the sensitivity pass told; made once for the same results."""
        told = seen.rows.tobytes(), seen.values.tobytes(), seen.signal.tobytes()
        if self._seeded is None or self._seeded[0] != told:
            self._seeded = told, self._seeds_of(seen)
        return self._seeded[1]

    def _seeds_of(self, seen: Observations) -> Rows:
        rng = np.random.default_rng([self.context.seed, 1])
        if not self.options.seeding:
            return self.genome.random(min(STRATIFIED, max(4, self.context.evaluations // 3)), rng)
        if self.prior is not None:
            return self.prior.seeds(self.genome, self._wanted_seeds, rng)
        model, costs = self._additive(seen), self._costs(seen)
        if not self._probing:
            # Straight lines would leave nothing between whole and least groups on the additive front.
            model = AdditiveModel(removed_shares(self.genome) ** USUAL_POWER)
        plain = plain_row(self.genome)
        count = self.options.seeds if self._probing else self._wanted_seeds
        return seed_rows(self.genome, model, lambda levels: costs.share(self._cost, levels), plain, count, rng)

    @property
    def _wanted_seeds(self) -> int:
        return min(16, max(4, self.context.evaluations // 4))

    @cached_property
    def _cost(self) -> str:
        """The cost that candidates are spread over: the last objective that is one, else MACs."""
        return next((o.name for o in reversed(self.context.objectives) if o.name in COSTS), "macs")

    def _additive(self, seen: Observations) -> AdditiveModel:
        if self.prior is not None:
            return self.prior.additive
        nothing = float("nan")
        known = self.context.dense
        dense = known.get(self.context.objectives[0].name, nothing), known.get(SIGNAL, nothing)
        return additive_model(self.genome, seen, self._target(seen), dense)

    def _target(self, seen: Observations) -> Target:
        first = self.context.objectives[0]
        spec = next(m for m in self.context.metrics if m.name == first.name)
        return Target(spec, self._dense(seen)[first.name])

    def _dense(self, seen: Observations) -> dict[str, float]:
        """Return objective -> value of the dense model: as told, as measured, or the most extreme that was seen."""
        dense = {o.name: self.context.dense[o.name] for o in self.context.objectives if o.name in self.context.dense}
        if len(dense) == len(self.context.objectives) or not len(seen):
            return {o.name: dense.get(o.name, 1.0) for o in self.context.objectives}
        whole = np.flatnonzero((seen.rows[:, : self.genome.groups] == 0).all(axis=1))
        for index, objective in enumerate(self.context.objectives):
            column = seen.values[:, index]
            extreme = column.max() if objective.name in COSTS or objective.direction == "max" else column.min()
            dense.setdefault(objective.name, float(column[whole[0]] if len(whole) else extreme))
        return dense

    def _costs(self, seen: Observations) -> CostForecast:
        widths = self.genome.widths(seen.rows)
        columns = measured_costs(seen, self.context)
        if self.prior is not None:
            widths = np.vstack([self.prior.widths, widths])
            columns = {name: np.concatenate([self.prior.costs[name], column]) for name, column in columns.items()}
        return CostForecast(self.genome, self.context).fit(widths, columns)

    def _begin(self, first: int, count: int) -> int:
        """Return the trial that the current batch begins with: a function of the number of trials alone.

        Args:
            first: Trial that the first batch begins with.
            count: Number of trials.
        """
        begin = first
        while begin + self._size(begin) <= count:
            begin += self._size(begin)
        return begin

    def _size(self, count: int) -> int:
        """Return the batch after `count` trials: it grows, so that fitting stays cheap for each candidate.

        It is also a share of what many workers have under way, or they would wait for one fit after the other.
        """
        share, workers = 20 if count <= MOST else 10, self.context.workers
        return max(self.options.batch, min(workers, 50), workers // 4, count // share)

    def _batch(self, seen: Observations, start: int) -> list[Planned]:
        self.plateau = False
        rng = np.random.default_rng([self.context.seed, 2, start])
        size = self._size(start)
        if len(seen) < STRATIFIED // 4:
            return [Planned(row, "explore", {}) for row in self.genome.unique(self.genome.random(size, rng))]
        model, dense = self._additive(seen), self._dense(seen)
        costs = self._costs(seen)
        expectation = Expectation(self.genome, self.context, self._encode(model), costs, self.options.explore)
        measured = expectation.reach(seen, dense).points(seen.values)
        expectation.fit(seen.only(training_subset(measured)))
        self.weights = expectation.weights_
        self._judge(seen, model)
        front = self._front(seen, expectation, measured)
        parents = seen.rows[best_rows(measured, PARENTS, rng)]
        if self.fallback is not None or not self.options.predictor:
            rows = self._local(parents, seen, size, rng)
            forecast = expectation.forecast(rows)
            told = [forecast.told(i, self.context.objectives, start) for i in range(len(rows))]
            return [Planned(row, "explore", told[i] if self.options.predictor else {}) for i, row in enumerate(rows)]
        fronts = perturbed_rows(
            self.genome, model, lambda v: costs.share(self._cost, v), parents[:10], self.options.draws, rng
        )
        first = np.vstack([parents, self.genome.random(NEWCOMERS, rng), fronts])
        met, points = evolve(
            self.genome, first, lambda rows: expectation.forecast(rows).points, self.options.evolution, rng
        )
        new = [i for i, key in enumerate(self.genome.keys(met)) if key not in seen.taken]
        if not new:
            return []
        met, points = met[new], points[new]
        forecast = expectation.forecast(met)
        chosen = choose_batch(points, front, size, weights=forecast.chance)
        self._settle(seen, start, expectation, met[chosen], front)
        return [Planned(met[i], "infill", forecast.told(i, self.context.objectives, start)) for i in chosen]

    def _encode(self, model: AdditiveModel) -> Callable[[Rows], Floats]:
        encoder, prior = encoder_of(self.genome, self.context, model), self.prior
        if prior is None:
            return encoder
        return lambda rows: np.hstack([encoder(rows), prior.features(self.genome, rows)])

    def _front(self, seen: Observations, expectation: Expectation, measured: Floats) -> Floats:
        """Return the points that a candidate has to improve on: feasible ones, and those under way as predicted."""
        known = measured[seen.violation <= 0.0]
        if not len(seen.pending):
            return known
        return np.vstack([known, expectation.forecast(seen.pending).points])

    def _local(self, parents: Rows, seen: Observations, size: int, rng: np.random.Generator) -> Rows:
        """Return mutated members of the front: the search without a predictor."""
        found = self.genome.unique(mutate(self.genome, parents[rng.integers(len(parents), size=20 * size)], rng))
        new = [i for i, key in enumerate(self.genome.keys(found)) if key not in seen.taken]
        return found[new[:size]]

    def _judge(self, seen: Observations, model: AdditiveModel) -> None:
        """Fall back where the predictor ordered the latest unseen candidates clearly worse than a prior or cost alone.

        Clearly: by 0.15 of the pairs of about equal cost. What the predictor itself chose is most likely to disappoint,
        so that a smaller gap is no evidence.
        """
        told = np.flatnonzero(np.isfinite(seen.predicted))[-JUDGED:]
        if len(told) < TRUSTED_FROM:
            self.fallback = None
            return
        target = self._target(seen)
        macs = self.context.costs.macs(self.genome.widths(seen.rows[told]))
        compared = better_than_prior(
            target.learned(seen.predicted[told]),
            target.learned(seen.values[told, 0]),
            macs,
            {"the additive prior": model.features(seen.rows[told])[:, 2]},
        )
        own, other = compared.concordance, compared.baseline_concordance
        worse = own is not None and other is not None and own < other - CLEARLY
        self.fallback = compared.reason if worse else None

    def _settle(self, seen: Observations, start: int, expectation: Expectation, chosen: Rows, front: Floats) -> None:
        """Note whether the search goes on in vain: little gained lately, little hoped for."""
        before = start
        for _ in range(BATCHES_LOOKED_BACK):
            before -= self._size(max(before - self.options.batch, 0))
        if before < len(self._probes) + BEFORE_PLATEAU - BATCHES_LOOKED_BACK * self.options.batch:
            return
        corner = [1.0] * len(self.context.objectives)
        good = seen.violation <= 0.0
        points = expectation.points(seen.values)
        volume = hypervolume(points[good], corner)
        earlier = hypervolume(points[good & (seen.numbers < before)], corner)
        if volume <= 0.0 or volume - earlier >= NO_GAIN * volume:
            return
        hoped = float(gain(expectation.forecast(chosen, explore=1.0).points, front).sum())
        self.plateau = hoped < NO_GAIN * volume

    def _untried(self, seen: Observations, begin: int) -> list[Rows]:
        """Return candidates that were never proposed, drawn at random; the rest in order where few are left."""
        rng = np.random.default_rng([self.context.seed, 3, begin])
        new = self._new(self.genome.unique(self.genome.random(200, rng)), seen)
        if new or self.genome.capacity() > MANY_ROWS:
            return new[: self._size(seen.count)]
        return self._new(self.genome.every(), seen)


def _end(rows: Rows, seen: Observations) -> int:
    """Return the number of the trial after those that proposed some rows."""
    return 1 + max((seen.taken.get(row.tobytes(), -1) for row in rows), default=-1)
