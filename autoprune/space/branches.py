"""Conditions -> branches: the names of all dimensions, and the walk that asks only for those that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autoprune.errors import ConfigError
from autoprune.space.conditions import UNTRAINED, Branch, Domain, OwnChoice, Start, State, numbers_of

Ask = Callable[[str], str]


class Branches:
    """The ways along the axes of one space on one model.

    A dimension bears the name of its axis, `criterion/GROUP` where a group chooses for itself. Where a walk leaves only
    some of the values that other walks leave, the dimension is one of its own, such as `schedule[one_shot|cubic]`:
    to Optuna a name has the same choices always.

    Args:
        starts: The possible (granularity, scope) with the axes behind them.
        items: Names of the space's groups.
        choices: Axis -> declared values, in whose order options stand.
    """

    def __init__(
        self, starts: Mapping[tuple[str, str], Start], items: Sequence[str], choices: Mapping[str, Domain]
    ) -> None:
        self._starts = starts
        self._items = items
        self._granularities = tuple(dict.fromkeys(granularity for granularity, _ in starts))
        self._scopes = {g: tuple(s for other, s in starts if other == g) for g in self._granularities}
        self._known: dict[tuple[str, ...], Branch] = {}
        self._own: dict[tuple[str, str, State], tuple[OwnChoice, ...]] = {}
        offered = self._offered()
        self._all = {
            stem: tuple(v for v in self._order(stem, choices) if any(v in options for options in found))
            for stem, found in offered.items()
        }
        self.dimensions: dict[str, Domain] = {}
        """Name of every categorical dimension of any branch -> its choices, those of one axis side by side."""
        for stem, found in offered.items():
            for options in sorted(found, key=lambda o: (o != self._all[stem], o)):
                if len(options) > 1:
                    self.dimensions[self._name(stem, options)] = options

    @property
    def granularities(self) -> tuple[str, ...]:
        """Granularities that some branch has."""
        return self._granularities

    @property
    def scopes(self) -> tuple[str, ...]:
        """Scopes that some branch has."""
        return tuple(dict.fromkeys(scope for _, scope in self._starts))

    def levels(self, granularity: str) -> tuple[int, ...]:
        """Return the indices of the groups that a granularity works on."""
        start = next(s for (g, _), s in self._starts.items() if g == granularity)
        return tuple(index for index in start.items if index >= 0)

    def may_need(self, number: str) -> bool:
        """Tell whether a number has a meaning on some branch."""
        schedules = [v for stem, options in self._all.items() if stem.partition("/")[0] == "schedule" for v in options]
        trained = [v for v in self._all["recovery"] if v not in UNTRAINED]
        needed = {
            "strength": any(v != "none" for v in self._all["regularizer"]),
            "rounds": "greedy" in self._all["selection"] or any(v != "one_shot" for v in schedules),
            "tolerance": "dynamic" in schedules,
        }
        return needed.get(number, bool(trained))

    def start(self, ask: Ask) -> tuple[Start, tuple[str, ...]]:
        """Return where a walk begins, with the dimensions that were asked for: the granularity and the scope."""
        names: list[str] = []
        granularity = self._pick("granularity", self._granularities, ask, names)
        scope = self._pick("scope", self._scopes[granularity], ask, names)
        return self._starts[granularity, scope], tuple(names)

    def walk(self, start: Start, begun: tuple[str, ...], ask: Ask) -> Branch:
        """Return the branch of a walk on from its start.

        Args:
            start: Granularity and scope.
            begun: Dimensions that were asked for before.
            ask: Name of a dimension -> the value that is chosen.
        """
        names, state, values = list(begun), start.domains, list[str]()
        while start.shared(state):
            value = self._pick(start.at(state).axis, start.options(state), ask, names)
            values.append(value)
            following = start.after(state, value)
            assert following is not None
            state = following
        key = start.granularity, start.scope, *values
        if key not in self._known:
            self._known[key] = self._branch(start, values, state, names)
        return self._known[key]

    def size_log10(self, sizes: Sequence[int], numbers: Mapping[str, int], amounts: int) -> float:
        """Return the decimal logarithm of the number of policies.

        Args:
            sizes: Levels of every group.
            numbers: Name -> how many values a number has.
            amounts: Sparsities of the scopes local and global.
        """
        total = -math.inf
        for start in self._starts.values():
            cache: dict[tuple[State, tuple[str, ...]], float] = {}
            count = self._count(start, start.domains, (), cache, (sizes, numbers, amounts))
            total = float(np.logaddexp(total, count))
        return total / math.log(10.0)

    def _count(
        self,
        start: Start,
        state: State,
        chosen: tuple[str, ...],
        cache: dict[tuple[State, tuple[str, ...]], float],
        counts: tuple[Sequence[int], Mapping[str, int], int],
    ) -> float:
        """Return the natural logarithm of the number of policies behind a state."""
        key = state, chosen
        if key in cache:
            return cache[key]
        if start.shared(state):
            axis = start.at(state).axis
            total = -math.inf
            for value in start.options(state):
                following = start.after(state, value)
                assert following is not None
                told = f"{axis}={value}" if axis in ("recovery", "regularizer", "selection", "schedule") else ""
                behind = self._count(start, following, (*chosen, told) if told else chosen, cache, counts)
                total = float(np.logaddexp(total, behind))
            cache[key] = total
            return total
        sizes, numbers, amounts = counts
        point = dict(told.split("=") for told in chosen)
        own = self._own_choices(start, state)
        schedules = frozenset(v for o in own if o.axis == "schedule" for v in o.options) | {
            point.get("schedule", "one_shot")
        }
        found = sum(math.log(numbers.get(name, 1)) for name in numbers_of(point, schedules))
        if start.scope != "per_group":
            return found + math.log(amounts)
        for index in start.items:
            ways = math.prod(len(o.options) for o in own if o.item == index)
            found += math.log(1 + (sizes[index] - 1) * ways)
        cache[key] = found
        return found

    def _branch(self, start: Start, values: Sequence[str], state: State, names: Sequence[str]) -> Branch:
        axes = [variable.axis for variable in start.variables[: len(values)]]
        point = {"granularity": start.granularity, "scope": start.scope, **dict(zip(axes, values, strict=True))}
        own = self._own_choices(start, state)
        behind = start.variables[len(values) :]
        for variable, domain in zip(behind, state, strict=True):
            if variable.axis not in point:  # the first sort is the strategy itself
                first = next((o.options for o in own if o.axis == variable.axis), domain)
                point[variable.axis] = next((v for v in first if v in domain), domain[0])
        levels = tuple(start.items) if start.scope == "per_group" else ()
        return Branch(point, tuple(names), own, levels)

    def _own_choices(self, start: Start, state: State) -> tuple[OwnChoice, ...]:
        key = start.granularity, start.scope, state
        if key not in self._own:
            behind = start.variables[len(start.variables) - len(state) :]
            left = dict(zip(behind, state, strict=True))
            axes = dict.fromkeys(variable.axis for variable in behind)
            sorts = {(variable.axis, variable.owner): domain for variable, domain in left.items()}
            self._own[key] = tuple(
                OwnChoice(item, axis, self._own_name(item, axis, options), options)
                for axis in axes
                for item, sort in start.items.items()
                if (options := sorts[axis, sort])
            )
        return self._own[key]

    def _own_name(self, item: int, axis: str, options: Domain) -> str:
        return self._name(f"{axis}/{self._items[item]}", options) if len(options) > 1 else ""

    def _offered(self) -> dict[str, set[Domain]]:
        """Return axis, or axis/group -> every set of options on any walk, in the order of the walk."""
        offered: dict[str, set[Domain]] = {"granularity": {self._granularities}}
        offered["scope"] = set(self._scopes.values())
        for start in self._starts.values():
            for state in start.states():
                if start.shared(state):
                    offered.setdefault(start.at(state).axis, set()).add(start.options(state))
                    continue
                behind = start.variables[len(start.variables) - len(state) :]
                for variable, domain in zip(behind, state, strict=True):
                    for item, sort in start.items.items():
                        if sort == variable.owner:
                            offered.setdefault(f"{variable.axis}/{self._items[item]}", set()).add(domain)
        return offered

    @staticmethod
    def _order(stem: str, choices: Mapping[str, Domain]) -> Domain:
        axis = stem.partition("/")[0]
        usual = ("sgd",) if axis == "optimizer" else ()
        return tuple(dict.fromkeys((*choices[axis], *usual)))

    def _name(self, stem: str, options: Domain) -> str:
        return stem if options == self._all[stem] else f"{stem}[{'|'.join(options)}]"

    def _pick(self, stem: str, options: Domain, ask: Ask, names: list[str]) -> str:
        if len(options) == 1:
            return options[0]
        name = self._name(stem, options)
        names.append(name)
        value = ask(name)
        if value not in options:
            raise ConfigError(f"{name} must be one of {', '.join(options)}. Got {value!r}.")
        return value
