"""Rows -> which of their columns count, and what an amount comes to in levels: fast, many rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.space import UNTRAINED, BoundSpace, Branch, numbers_of

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def stem_of(name: str) -> str:
    """Return the axis, or axis/group, of a dimension that offers some of its values only."""
    return name.partition("[")[0]


@dataclass(frozen=True)
class _Way:
    """A branch in columns.

    Args:
        branch: The way along the axes.
        always: [D] columns that count on it whatever else a row says.
        levels: Groups whose level is chosen; the others stay whole.
        own: [k, 2] column of what a group chooses for itself, and the group.
        own_schedules: Per group with a schedule of its own: the group, its column (-1 where there is one option), and
            what its steps stand for.
        table: [amounts, G] levels that an amount comes to; None where levels are chosen.
    """

    branch: Branch
    always: Flags
    levels: Rows
    own: Rows
    own_schedules: tuple[tuple[int, int, tuple[str, ...]], ...]
    table: Rows | None


class Activity:
    """Tells which columns of rows count.

    Args:
        space: The bound space.
        names: Names of the columns, the groups' levels first.
        values: What the steps of each column stand for.
    """

    def __init__(self, space: BoundSpace, names: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
        self._space = space
        self._values = values
        self._column = {name: i for i, name in enumerate(names)}
        self._groups = len(space.groups)
        known = space.branches.dimensions
        self._axes = [i for i, name in enumerate(names) if name in known and "/" not in name]
        self._names = list(names)
        self._conditional = any(self._decides(i) for i in self._axes) or any("/" in n for n in names[self._groups :])
        self._ways: dict[bytes, _Way] = {}
        self._tables: dict[tuple[str, ...], Rows] = {}

    def resolve(self, rows: Rows) -> tuple[Rows, Flags]:
        """Return [n, D] canonical rows, and which of their columns count."""
        out = np.array(rows, dtype=np.int64)
        active = np.zeros(out.shape, dtype=bool)
        if not len(out):
            return out, active
        if not self._conditional:
            self._settle(out, active, np.arange(len(out)), self._way(out[0, self._axes]))
            return out, active
        keys, inverse = np.unique(out[:, self._axes], axis=0, return_inverse=True)
        order = np.argsort(inverse.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(inverse.reshape(-1)))
        for key, lines in zip(keys, np.split(order, ends[:-1]), strict=True):
            self._settle(out, active, lines, self._way(key))
        return out, active

    def _decides(self, column: int) -> bool:
        """Tell whether what counts depends on an axis."""
        axis, values = self._names[column].partition("[")[0], self._values[column]
        if "[" in self._names[column] or axis == "recovery":
            return axis != "recovery" or any(value in UNTRAINED for value in values)
        return axis not in ("criterion", "normalization", "regrowth", "optimizer")

    def _settle(self, out: Rows, active: Flags, lines: Rows, way: _Way) -> None:
        """Fill in what counts for the rows of one branch, and put 0 where nothing does."""
        found, flags = out[lines], np.repeat(way.always[None], len(lines), axis=0)
        groups = self._groups
        if way.table is None:
            whole = np.ones(groups, dtype=bool)
            whole[way.levels] = False
            found[:, :groups][:, whole] = 0
        else:
            column = self._column.get("amount")
            found[:, :groups] = way.table[np.zeros(len(lines), dtype=np.int64) if column is None else found[:, column]]
        if len(way.own):
            flags[:, way.own[:, 0]] = found[:, way.own[:, 1]] > 0
        if way.own_schedules:
            self._number_flags(found, flags, way)
        found[:, groups:] *= flags[:, groups:]
        out[lines], active[lines] = found, flags

    def _number_flags(self, found: Rows, flags: Flags, way: _Way) -> None:
        """Tell which numbers count where groups follow schedules of their own."""
        followed = {name: np.zeros(len(found), dtype=bool) for name in ("iterative", "cubic", "dynamic")}
        for group, column, values in way.own_schedules:
            for step, value in enumerate(values):
                if value in followed:
                    chosen = found[:, column] == step if column >= 0 else True
                    followed[value] |= (found[:, group] > 0) & chosen
        for name in ("rounds", "tolerance"):
            if name in self._column:
                flags[:, self._column[name]] = False
        for moving in (False, True):
            for rolling in (False, True):
                told = frozenset(["one_shot", *(["cubic"] if moving else []), *(["dynamic"] if rolling else [])])
                lines = (followed["dynamic"] == rolling) & ((followed["iterative"] | followed["cubic"]) == moving)
                for name in set(numbers_of(way.branch.point, told)) & {"rounds", "tolerance"} & self._column.keys():
                    flags[lines, self._column[name]] = True

    def _way(self, key: Rows) -> _Way:
        found = self._ways.get(key.tobytes())
        if found is None:
            found = self._ways[key.tobytes()] = self._make(key)
        return found

    def _make(self, key: Rows) -> _Way:
        picked = {self._names[c]: self._values[c][int(step)] for c, step in zip(self._axes, key, strict=True)}
        branches = self._space.branches
        start, begun = branches.start(picked.__getitem__)
        branch = branches.walk(start, begun, picked.__getitem__)
        own_axes = {choice.axis for choice in branch.own}
        schedules = frozenset() if "schedule" in own_axes else frozenset((branch.point["schedule"],))
        always = np.zeros(len(self._names), dtype=bool)
        free = branch.point["scope"] == "per_group"
        counting = [*branch.names, *numbers_of(branch.point, schedules)]
        counting += [self._names[i] for i in branch.levels] if free else ["amount"]
        always[[self._column[name] for name in counting if name in self._column]] = True
        own = [(self._column[o.name], o.item) for o in branch.own if o.name]
        return _Way(
            branch,
            always,
            np.array(branch.levels, dtype=np.int64),
            np.array(own, dtype=np.int64).reshape(len(own), 2),
            tuple(
                (o.item, self._column[o.name] if o.name else -1, o.options) for o in branch.own if o.axis == "schedule"
            ),
            None if free else self._table(branch),
        )

    def _table(self, branch: Branch) -> Rows:
        """Return [amounts, G] levels; the same for all branches that rank alike."""
        key = tuple(branch.point[axis] for axis in ("granularity", "scope", "criterion", "normalization"))
        if key not in self._tables:
            found = [self._space.allotted(branch.point, amount) for amount in self._space.amounts]
            self._tables[key] = np.array(found, dtype=np.int64)
        return self._tables[key]
