"""Space <-> integer rows: what the search computes with, one column a dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autoprune.search.columns import Activity, Flags, stem_of
from autoprune.space import LEVEL_PREFIX, BoundSpace

FLOAT_STEPS = 9

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Key = bytes


@dataclass(frozen=True)
class Dimension:
    """One column.

    Args:
        name: Name of the parameter.
        values: What its steps stand for, in order.
        ordered: Whether neighbours are alike; else the values are categories.
        continuous: Whether values between them are allowed too.
    """

    name: str
    values: tuple[Any, ...]
    ordered: bool
    continuous: bool = False


class Genome:
    """Rows of steps for the candidates of one space: [n, D] integers, the groups' levels first.

    A level is the step of a group's width, 0 = dense. A continuous range is proposed on a grid of 9 values. There is a
    level for every group, also where an amount decides it. Rows that are made here are canonical: equal policies are
    equal rows.

    Args:
        space: The bound space.

    Attributes:
        free: Whether the sparsity of single groups can be chosen at all.
    """

    def __init__(self, space: BoundSpace) -> None:
        self.space = space
        found = space.distributions()
        levels = [
            Dimension(LEVEL_PREFIX + g.name, tuple(range(len(space.widths[g.name]))), ordered=True)
            for g in space.groups
        ]
        others = [_dimension(n, d) for n, d in found.items() if not n.startswith(LEVEL_PREFIX)]
        self.dimensions: tuple[Dimension, ...] = (*levels, *others)
        self.sizes: Rows = np.array([len(d.values) for d in self.dimensions], dtype=np.int64)
        self.groups = len(levels)
        self.free = "per_group" in space.branches.scopes
        self._activity = Activity(space, self.names, [d.values for d in self.dimensions])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(d.name for d in self.dimensions)

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """Columns that are no level."""
        return tuple(range(self.groups, len(self.dimensions)))

    @cached_property
    def amount(self) -> int | None:
        """The column of the sparsity that holds for all groups, where the space has it."""
        return self.names.index("amount") if "amount" in self.names else None

    @cached_property
    def _widths(self) -> Rows:
        """[G, most levels] kept width of every level of every group."""
        table = np.zeros((self.groups, int(self.sizes[: self.groups].max(initial=1))), dtype=np.int64)
        for row, group in enumerate(self.space.groups):
            widths = self.space.widths[group.name]
            table[row, : len(widths)] = widths
            table[row, len(widths) :] = widths[-1]
        return table

    @cached_property
    def dense_widths(self) -> Rows:
        """[G] width of every group before pruning."""
        return np.array([g.width for g in self.space.groups], dtype=np.int64)

    def widths(self, rows: Rows) -> Rows:
        """Return [n, G] kept widths."""
        return np.asarray(self._widths[np.arange(self.groups), rows[:, : self.groups]])

    def canonical(self, rows: Rows) -> Rows:
        """Return the rows with 0 in every column that does not count, and with the levels that an amount comes to."""
        return self._activity.resolve(rows)[0]

    def active(self, rows: Rows) -> Flags:
        """Return [n, D] which columns count: the others change nothing about a row's policy."""
        return self._activity.resolve(rows)[1]

    def encode(self, params: Mapping[str, Any]) -> Rows | None:
        """Return the row [D] of a trial's parameters; missing ones take the first value.

        Returns:
            None where a value lies outside the space, as in a foreign trial.
        """
        row = np.zeros(len(self.dimensions), dtype=np.int64)
        for column, dimension in enumerate(self.dimensions):
            if dimension.name not in params:
                continue
            step = _step(dimension, params[dimension.name])
            if step is None:
                return None
            row[column] = step
        return np.asarray(self.canonical(row[None])[0])

    def decode(self, row: Rows) -> dict[str, Any]:
        """Return the parameters of a row that count."""
        active = self.active(row[None])[0]
        steps = zip(self.dimensions, row, active, strict=True)
        return {d.name: d.values[int(step)] for d, step, counts in steps if counts}

    def dense(self) -> Rows:
        """Return the row that removes nothing, every choice at its first value; or least, where levels are not free."""
        return np.asarray(self.canonical(np.zeros((1, len(self.dimensions)), dtype=np.int64))[0])

    def plain(self) -> Rows:
        """Return the row that removes nothing, with the usual choices."""
        return np.asarray(self.canonical(self.usual()[None])[0])

    def usual(self) -> Rows:
        """Return the usual step of every column, counting or not: the first category, the middle of a range; level 0.

        Of scopes and granularities those are taken under which most groups have a level of their own.
        """
        row = np.zeros(len(self.dimensions), dtype=np.int64)
        usual = self.space.uniform(0.0)
        for column in self.choices:
            dimension = self.dimensions[column]
            if dimension.name in usual and column != self.amount:
                row[column] = dimension.values.index(usual[dimension.name])
            else:
                row[column] = len(dimension.values) // 2 if dimension.ordered else 0
        return row

    def freed(self, rows: Rows) -> Rows:
        """Return the rows with the same levels, chosen one by one where an amount decided them."""
        out = rows.copy()
        for column in self.choices:
            dimension = self.dimensions[column]
            if stem_of(dimension.name) == "scope" and "per_group" in dimension.values:
                out[:, column] = dimension.values.index("per_group")
        return self.canonical(out)

    def keys(self, rows: Rows) -> list[Key]:
        """Return one hashable key a row."""
        return [row.tobytes() for row in np.ascontiguousarray(rows, dtype=np.int64)]

    def capacity(self) -> float:
        """Return the number of rows before they are made canonical: at least as many as there are policies."""
        return float(np.prod(self._asked.astype(np.float64)))

    def every(self) -> Rows:
        """Return all rows; only where `capacity` is small."""
        return self.unique(np.array(list(np.ndindex(*self._asked)), dtype=np.int64))

    @cached_property
    def _asked(self) -> Rows:
        """[D] sizes of the columns that are chosen."""
        fixed = np.arange(len(self.sizes)) < (0 if self.free else self.groups)
        return np.where(fixed, 1, self.sizes)

    def random(self, count: int, rng: np.random.Generator) -> Rows:
        """Return [count, D] rows spread over the range of cost: levels scatter around a common sparsity."""
        centre = rng.uniform(0.0, 1.0, size=(count, 1))
        share = np.clip(centre + rng.normal(0.0, 0.15, size=(count, self.groups)), 0.0, 1.0)
        levels = np.rint(share * (self.sizes[: self.groups] - 1)).astype(np.int64)
        rest = [rng.integers(self.sizes[c], size=count) for c in self.choices]
        return self.canonical(np.column_stack([levels, *rest]) if rest else levels)

    def unique(self, rows: Rows) -> Rows:
        """Return the rows, made canonical, without repeats, in order of first appearance."""
        rows = self.canonical(rows)
        first = dict.fromkeys(self.keys(rows))
        index = {key: i for i, key in reversed(list(enumerate(self.keys(rows))))}
        return rows[[index[key] for key in first]]

    def translated(self, rows: Rows, other: Genome) -> Rows:
        """Return rows of another genome of the same groups as rows of this one.

        A choice is carried over by its axis and value; what this space does not offer takes the first value.
        """
        counts = other.active(rows)
        out = np.zeros((len(rows), len(self.dimensions)), dtype=np.int64)
        out[:, : self.groups] = rows[:, : self.groups]
        for column in self.choices:
            mine = self.dimensions[column]
            for source in other.choices:
                theirs = other.dimensions[source]
                if stem_of(theirs.name) == stem_of(mine.name):
                    steps = np.array([mine.values.index(v) if v in mine.values else 0 for v in theirs.values])
                    out[:, column] = np.where(counts[:, source], steps[rows[:, source]], out[:, column])
        return self.canonical(out)


def stack(rows: Sequence[Rows], columns: int) -> Rows:
    """Return [n, columns] of single rows, also for none."""
    return np.array(rows, dtype=np.int64).reshape(len(rows), columns)


def _dimension(name: str, dist: BaseDistribution) -> Dimension:
    if isinstance(dist, IntDistribution):
        return Dimension(name, tuple(range(dist.low, dist.high + 1, dist.step or 1)), ordered=True)
    if isinstance(dist, FloatDistribution):
        if dist.log:
            values = np.geomspace(dist.low, dist.high, FLOAT_STEPS)
        else:
            values = np.linspace(dist.low, dist.high, FLOAT_STEPS)
        values = np.clip(values, dist.low, dist.high)
        return Dimension(name, tuple(float(v) for v in values), ordered=True, continuous=True)
    if isinstance(dist, CategoricalDistribution):
        numbers = [float(c) for c in dist.choices if isinstance(c, int | float) and not isinstance(c, bool)]
        ordered = len(numbers) == len(dist.choices) and numbers == sorted(numbers)
        return Dimension(name, tuple(dist.choices), ordered=ordered)
    raise TypeError(f"Unknown distribution {dist!r}.")


def _step(dimension: Dimension, value: Any) -> int | None:
    """Return the step of a value; of a continuous one the nearest, None where it lies outside."""
    if value in dimension.values:
        return dimension.values.index(value)
    if not dimension.continuous or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    low, high = dimension.values[0], dimension.values[-1]
    if not low <= value <= high:
        return None
    return int(np.argmin([abs(v - value) for v in dimension.values]))
