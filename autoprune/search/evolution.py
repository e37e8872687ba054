"""Predictor -> promising rows: an evolution of level switches over what the predictor expects (inner optimiser)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import moocore
import numpy as np
import numpy.typing as npt

from autoprune.search.genome import Genome, Rows

Floats = npt.NDArray[np.float64]

SWITCH = 0.6
SHIFT_ALL = 0.15
CHOICE = 0.15
CROSS = 0.35


@dataclass(frozen=True)
class Evolution:
    """Size of the inner search.

    Args:
        population: Rows kept a generation.
        generations: Number of generations.
    """

    population: int = 120
    generations: int = 15


def evolve(
    genome: Genome, start: Rows, expected: Callable[[Rows], Floats], size: Evolution, rng: np.random.Generator
) -> tuple[Rows, Floats]:
    """Return every row that the evolution met, with what is expected of it.

    Args:
        genome: The space's rows.
        start: [n, D] first population.
        expected: [n, D] rows -> [n, k] scaled objectives, minimised.
        size: Population and generations.
        rng: Source of all randomness.
    """
    current = genome.unique(start)
    value = expected(current)
    met_rows, met_values = [current], [value]
    seen = set(genome.keys(current))
    for _ in range(size.generations):
        children = mutate(genome, cross(current[rng.integers(len(current), size=size.population)], current, rng), rng)
        first = {key: i for i, key in reversed(list(enumerate(genome.keys(children)))) if key not in seen}
        fresh = sorted(first.values())
        seen.update(first)
        if fresh:
            children = children[fresh]
            predicted = expected(children)
            met_rows.append(children)
            met_values.append(predicted)
            current, value = np.vstack([current, children]), np.vstack([value, predicted])
        best = best_rows(value, size.population, rng)
        current, value = current[best], value[best]
    return np.vstack(met_rows), np.vstack(met_values)


def best_rows(value: Floats, count: int, rng: np.random.Generator) -> Rows:
    """Return up to `count` rows of `value` [n, k], front by front, the last front drawn at random."""
    rank = np.asarray(moocore.pareto_rank(value))
    order = np.lexsort((rng.random(len(value)), rank))
    return np.asarray(order[:count], dtype=np.int64)


def cross(rows: Rows, pool: Rows, rng: np.random.Generator) -> Rows:
    """Return the rows, about a third of them crossed uniformly with random members of the pool."""
    partners = pool[rng.integers(len(pool), size=len(rows))]
    crossed = rng.random((len(rows), 1)) < CROSS
    take = crossed & (rng.random(rows.shape) < 0.5)
    return np.where(take, partners, rows)


def mutate(genome: Genome, rows: Rows, rng: np.random.Generator) -> Rows:
    """Return changed rows: levels switched between groups or moved by up to two, all shifted, a choice changed.

    Where an amount decides the levels, it is what moves by up to two.
    """
    out = rows.copy()
    count, top = len(out), genome.sizes - 1
    groups = genome.groups
    line = np.arange(count)
    switch = rng.random(count) < SWITCH
    moves = rng.integers(1, 4, size=count)
    for move in range(3):
        active = move < moves
        up, down = rng.integers(groups, size=count), rng.integers(groups, size=count)
        one = active & switch
        out[line[one], up[one]] -= 1
        out[line[one], down[one]] += 1
        other = active & ~switch
        out[line[other], up[other]] += rng.integers(-2, 3, size=count)[other]
    shifted = rng.random(count) < SHIFT_ALL
    out[shifted, :groups] += rng.choice([-1, 1], size=(int(shifted.sum()), 1))
    for column in genome.choices:
        change = rng.random(count) < CHOICE / max(1.0, len(genome.choices) / 4.0)
        if genome.dimensions[column].ordered:
            step = rng.choice([-1, 1], size=count)
            out[:, column] = np.where(change, out[:, column] + step, out[:, column])
        else:
            out[:, column] = np.where(change, rng.integers(genome.sizes[column], size=count), out[:, column])
    if genome.amount is not None:
        out[:, genome.amount] += np.where(rng.random(count) < SWITCH, rng.integers(-2, 3, size=count), 0)
    return genome.canonical(np.clip(out, 0, top))
