"""The proxy phase's trials -> what the recovered search starts from: additive model, proxy scores, latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoprune.predictor.additive import AdditiveModel, additive_front, spread_rows
from autoprune.predictor.ensemble import Ensemble
from autoprune.predictor.features import Encoder
from autoprune.predictor.targets import Target
from autoprune.search.columns import stem_of
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.encoding import encoder_of
from autoprune.search.genome import Genome, Rows
from autoprune.search.observations import Observations, measured_costs, observe
from autoprune.search.scaling import ranges_of, scaled
from autoprune.search.seeding import WEIGHTS, amount_rows, promoted_rows, with_choices
from autoprune.search.sensitivity import additive_model, plain_row

Floats = npt.NDArray[np.float64]

LEAST_PROXIES = 8
ADDITIVE_SHARE = 0.25


@dataclass(frozen=True)
class Prior:
    """What untrained candidates have shown.

    Args:
        genome: Rows of the proxy phase's space: levels and criteria.
        seen: Its observations.
        points: [n, k] their scaled objectives.
        additive: What every group loses.
        learned: [n] quality on the predictor's scale.
        model: Predicts that quality for rows without a proxy.
        encoder: Its features.
        widths: [n, G] kept units.
        costs: Cost -> [n] measured values; NaN where unknown.
    """

    genome: Genome
    seen: Observations
    points: Floats
    additive: AdditiveModel
    learned: Floats
    model: Ensemble
    encoder: Encoder
    widths: Rows
    costs: Mapping[str, Floats]

    @classmethod
    def of(cls, context: SamplerContext) -> Prior | None:
        """Return the prior of a phase; None where there was no proxy phase to learn from."""
        if not context.prior:
            return None
        genome = Genome(context.space.for_proxy())
        names = [o.name for o in context.objectives]
        seen = observe(context.prior, genome, names, context.demands)
        first = context.objectives[0]
        if len(seen) < LEAST_PROXIES or any(name not in context.dense for name in names):
            return None
        target = Target(next(m for m in context.metrics if m.name == first.name), context.dense[first.name])
        dense = context.dense[first.name], context.dense.get(SIGNAL, float("nan"))
        additive = additive_model(genome, seen, target, dense)
        encoder = encoder_of(genome, context, additive)
        learned = target.learned(seen.values[:, 0])
        ranges = ranges_of(context.objectives, context.metrics, context.dense)
        return cls(
            genome=genome,
            seen=seen,
            points=scaled(context.objectives, ranges, seen.values),
            additive=additive,
            learned=learned,
            model=Ensemble(seed=context.seed).fit(encoder(seen.rows), learned),
            encoder=encoder,
            widths=genome.widths(seen.rows),
            costs=measured_costs(seen, context),
        )

    def translated(self, genome: Genome, rows: Rows) -> Rows:
        """Return rows of another genome of the same groups as rows of the proxy's: choices that it lacks fall away."""
        return self.genome.translated(rows, genome)

    def features(self, genome: Genome, rows: Rows) -> Floats:
        """Return [n, 1] the proxy's learned quality of each row: measured where there is one, else predicted."""
        own = self.translated(genome, rows)
        found = self.model.predict(self.encoder(own)).mean
        index = {key: i for i, key in enumerate(self.genome.keys(self.seen.rows))}
        for line, key in enumerate(self.genome.keys(own)):
            if key in index:
                found[line] = self.learned[index[key]]
        return np.asarray(found[:, None])

    def seeds(self, genome: Genome, count: int, rng: np.random.Generator) -> Rows:
        """Return `count` first candidates of the recovered search.

        Three quarters come from the proxies' front, spread over cost; the others from the additive front below the
        cheapest proxy that is of any use, where untrained scores say nothing any more. They come in halving order, so
        that a search cut short has covered the whole range of cost. Choices that only matter with training take turns.

        Args:
            genome: Rows of the recovered search.
            count: Rows wanted.
            rng: Source of randomness.
        """
        inside = np.asarray((self.points < 1.0).all(axis=1))
        feasible = np.asarray(inside & (self.seen.violation <= 0.0))
        usable = next((u for u in (feasible, inside) if u.any()), np.ones(len(self.points), dtype=bool))
        below = max(1, round(ADDITIVE_SHARE * count))
        promoted = promoted_rows(self.seen.rows[usable], self.points[usable], count - below)

        def log_share(levels: Rows) -> Floats:
            macs = self.encoder.costs.macs(self.genome.widths(np.vstack([levels * 0, levels])))
            return np.asarray(np.log(macs[len(levels) :] / macs[: len(levels)]))

        groups = self.genome.groups
        front = additive_front([self.additive], self.genome.sizes[:groups], log_share, WEIGHTS, rng)
        share, floor = log_share(front), float(log_share(promoted[:, :groups]).min())
        deep = share < floor if (share < floor).any() else np.ones(len(share), dtype=bool)
        plain = plain_row(self.genome)
        if self.genome.free:
            extra = [
                with_choices(self.genome, levels, plain) for levels in spread_rows(front[deep], share[deep], below)
            ]
        else:
            extra = [*amount_rows(self.genome, plain, 2 * below)[below:]]
        own = np.vstack([promoted, *(row[None, :] for row in extra)])
        return self._with_turns(genome, own[_halving(len(own))])

    def _with_turns(self, genome: Genome, own: Rows) -> Rows:
        known = {stem_of(name) for name in self.genome.names}
        rows = genome.translated(own, self.genome)
        for turn, row in enumerate(rows):
            for index in genome.choices:
                dimension = genome.dimensions[index]
                if stem_of(dimension.name) in known:
                    continue
                size = len(dimension.values)
                ordered = (size // 2, size // 4, (3 * size) // 4)[turn % 3]
                row[index] = ordered if dimension.ordered else turn % size
        return genome.unique(rows)


def _halving(count: int) -> list[int]:
    """Return 0 .. count - 1 in an order whose every prefix is spread evenly: by reversed binary digits."""
    bits = max(count - 1, 1).bit_length()
    order = sorted(range(2**bits), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [i for i in order if i < count]
