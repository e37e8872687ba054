"""Additive model -> the first candidates, over the whole range of cost (stage B); and those of the recovered search."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autoprune.pareto import non_dominated
from autoprune.predictor.additive import AdditiveModel, Costs, additive_front, spread_rows
from autoprune.search.genome import Genome, Rows, stack

Floats = npt.NDArray[np.float64]

WEIGHTS = np.geomspace(0.02, 40.0, 40)
ROUND_WEIGHTS = np.geomspace(0.05, 20.0, 12)
NEARLY_DENSE = 0.95
SPREAD = 0.5
MOST_CATEGORIES = 12


def seed_rows(
    genome: Genome, model: AdditiveModel, log_share: Costs, plain: Rows, count: int, rng: np.random.Generator
) -> Rows:
    """Return `count` rows of the additive front, even in log cost, then a middle one for every other category.

    Args:
        genome: Rows of the space.
        model: What every group loses.
        log_share: [n, G] levels -> [n] logarithm of the cost's share of the dense model's.
        plain: [D] the usual choices.
        count: Rows of the front.
        rng: Source of randomness.
    """
    if not genome.free:
        rows = [*amount_rows(genome, plain, count)]
        return genome.unique(stack([*rows, *_categories(genome, plain, count, rng)], len(genome.dimensions)))
    front = additive_front([model], genome.sizes[: genome.groups], log_share, WEIGHTS, rng)
    share = log_share(front)
    smaller = share < np.log(NEARLY_DENSE)
    if smaller.any():
        front, share = front[smaller], share[smaller]
    rows = [with_choices(genome, levels, plain) for levels in spread_rows(front, share, count)]
    middle = spread_rows(front, share, 3)[min(1, len(front) - 1)]
    rows += _categories(genome, middle, count, rng)
    return genome.unique(stack(rows, len(genome.dimensions)))


def amount_rows(genome: Genome, plain: Rows, count: int) -> Rows:
    """Return `count` rows with the choices of another, their amounts evenly spread from the least to the largest."""
    rows = np.repeat(plain[None], count, axis=0)
    if genome.amount is not None:
        rows[:, genome.amount] = np.rint(np.linspace(0, genome.sizes[genome.amount] - 1, count))
    return genome.canonical(rows)


def perturbed_rows(
    genome: Genome, model: AdditiveModel, log_share: Costs, choices: Rows, draws: int, rng: np.random.Generator
) -> Rows:
    """Return additive fronts whose groups count for more or less at random (the search space of SPDY).

    Args:
        genome: Rows of the space.
        model: What every group loses.
        log_share: [n, G] levels -> [n] logarithm of the cost's share.
        choices: [m, D] good rows, whose choices are taken over.
        draws: Number of perturbed models.
        rng: Source of randomness.
    """
    models = [model.rescaled(np.exp(rng.normal(0.0, SPREAD, model.groups))) for _ in range(draws)]
    levels = additive_front(models, genome.sizes[: genome.groups], log_share, ROUND_WEIGHTS, rng)
    rows = genome.freed(choices[rng.integers(len(choices), size=len(levels))])
    rows[:, : genome.groups] = levels
    return genome.canonical(rows)


def promoted_rows(rows: Rows, points: Floats, count: int) -> Rows:
    """Return at most `count` of the non-dominated rows, evenly spread over the last objective.

    Args:
        rows: [n, D].
        points: [n, k] scaled objectives, minimised.
        count: Number wanted.
    """
    front = non_dominated(points)
    return spread_rows(rows[front], points[front][:, -1], count)


def with_choices(genome: Genome, levels: Rows, plain: Rows) -> Rows:
    """Return the row of some levels with the choices of another row."""
    row = plain.copy()
    row[: genome.groups] = levels[: genome.groups]
    return np.asarray(genome.canonical(row[None])[0])


def _categories(genome: Genome, middle: Rows, count: int, rng: np.random.Generator) -> list[Rows]:
    """Return a row of some levels for every category, the other choices usual: not many more than `count` in all."""
    rows = []
    for column in genome.choices:
        dimension = genome.dimensions[column]
        if dimension.ordered or "/" in dimension.name:
            continue
        for value in range(len(dimension.values)):
            row = genome.usual()
            row[: genome.groups] = middle[: genome.groups]
            row[column] = value
            rows.append(row)
    if not rows:
        return rows
    different = genome.unique(stack(rows, len(genome.dimensions)))
    most = max(MOST_CATEGORIES, 2 * count)
    if len(different) > most:
        different = different[np.sort(rng.permutation(len(different))[:most])]
    return [*different]
