"""Declared choices -> which of them go together: the walk along the axes on which no dead end is ever proposed.

The axes are chosen in a fixed order. What is on offer of an axis are the values that go with all that was chosen before
and leave something to choose on every axis behind. Exclusions concern pairs of values (`axes.refusal`), so a value only
narrows what is on offer behind it: walks that narrow it alike are looked at once, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from autoprune.axes import AXES, refusal

ORDER = ("criterion", "normalization", "selection", "recovery", "schedule", "regularizer", "regrowth", "optimizer")
UNTRAINED = ("recalibrate", "reconstruct")
USUAL_OPTIMIZER = ("sgd",)

Domain = tuple[str, ...]
State = tuple[Domain, ...]


@dataclass(frozen=True)
class Ranked:
    """What values depend on of a group or part: its granularity, and whether BatchNorms scale its units."""

    granularity: str
    norms: bool = True

    def allows(self, axis: str, value: str) -> bool:
        """Tell whether a value of an axis is possible for it."""
        if axis in ("criterion", "regularizer") and "batch_norm" in AXES[axis][value].requires and not self.norms:
            return False
        return refusal({"granularity": self.granularity, axis: value}) is None


@dataclass(frozen=True)
class Variable:
    """Something that is chosen: an axis for the whole model, or for the groups of one sort."""

    axis: str
    owner: Ranked | None = None


@dataclass(frozen=True)
class OwnChoice:
    """What one group chooses for itself.

    Args:
        item: Index of the group in the space.
        axis: Such as `criterion`.
        name: Name of the dimension; empty where there is one option.
        options: What it chooses among.
    """

    item: int
    axis: str
    name: str
    options: Domain


@dataclass(frozen=True)
class Branch:
    """One way along the axes.

    Args:
        point: Axis -> value; of an axis on which groups choose for themselves, what holds where none does.
        names: Dimensions that were asked for on the way.
        own: What the groups choose for themselves.
        levels: Indices of the groups whose sparsity is chosen one by one.
    """

    point: Mapping[str, str]
    names: tuple[str, ...]
    own: tuple[OwnChoice, ...] = ()
    levels: tuple[int, ...] = ()


@cache
def clash(axis: str, value: str, other_axis: str, other: str) -> bool:
    """Tell whether two values exclude each other."""
    return refusal({axis: value, other_axis: other}) is not None


@dataclass(frozen=True)
class Start:
    """The axes behind one granularity and one scope.

    Args:
        granularity: The strategy's.
        scope: The strategy's.
        items: Group of the space -> what values depend on of it, for those whose sparsity is chosen.
        variables: What is chosen, in order; what groups choose for themselves last.
        domains: What is possible of each.
    """

    granularity: str
    scope: str
    items: Mapping[int, Ranked]
    variables: tuple[Variable, ...]
    domains: State
    _after: dict[tuple[State, str], State | None] = field(default_factory=dict, compare=False, repr=False)

    def at(self, state: State) -> Variable:
        """Return what is chosen next."""
        return self.variables[len(self.variables) - len(state)]

    def shared(self, state: State) -> bool:
        """Tell whether something is left to choose for the whole model."""
        return bool(state) and self.at(state).owner is None

    def options(self, state: State) -> Domain:
        """Return what is on offer of the next variable."""
        return tuple(value for value in state[0] if self.after(state, value) is not None)

    def after(self, state: State, value: str) -> State | None:
        """Return what is possible behind a value of the next variable; None where that is a dead end."""
        key = state, value
        if key not in self._after:
            axis = self.at(state).axis
            behind = self.variables[len(self.variables) - len(state) + 1 :]
            untrained = axis == "recovery" and value in UNTRAINED
            narrowed = tuple(
                USUAL_OPTIMIZER
                if untrained and variable.axis == "optimizer"
                else tuple(v for v in domain if not clash(axis, value, variable.axis, v))
                for variable, domain in zip(behind, state[1:], strict=True)
            )
            self._after[key] = narrowed if self.passable(narrowed) else None
        return self._after[key]

    def passable(self, state: State) -> bool:
        """Tell whether every variable of a state can be given a value."""
        if not all(state):
            return False
        return not self.shared(state) or any(self.after(state, value) is not None for value in state[0])

    def states(self) -> Iterator[State]:
        """Yield every different state on any walk, also those at which only the groups' own choices are left."""
        pending, seen = [self.domains], {self.domains}
        while pending:
            state = pending.pop()
            yield state
            if not self.shared(state):
                continue
            following = (self.after(state, value) for value in self.options(state))
            fresh = [s for s in dict.fromkeys(following) if s is not None and s not in seen]
            seen.update(fresh)
            pending += fresh


Choices = Mapping[str, Domain]


def start_of(
    choices: Choices, own_axes: Sequence[str], granularity: str, scope: str, items: Mapping[int, Ranked]
) -> Start | None:
    """Return the axes behind a granularity and a scope; None where nothing goes with them.

    Args:
        choices: Axis -> declared values.
        own_axes: Axes on which groups choose for themselves.
        granularity: The strategy's.
        scope: The strategy's.
        items: Group of the space (any other number for what is not searched) -> what values depend on of it.
    """
    whole = Ranked(granularity)
    sorts = tuple(dict.fromkeys((whole, *items.values())))
    if any(not sort.allows("scope", scope) for sort in sorts):
        return None
    own = tuple(axis for axis in own_axes if scope == "per_group")
    shared = [Variable(axis) for axis in ORDER if axis not in own]
    variables = (*shared, *(Variable(axis, sort) for axis in own for sort in sorts))
    domains = []
    for variable in variables:
        asked = sorts if variable.owner is None else (variable.owner,)
        declared = tuple(dict.fromkeys(choices[variable.axis]))
        domains.append(
            tuple(
                v
                for v in declared
                if not clash("scope", scope, variable.axis, v) and all(sort.allows(variable.axis, v) for sort in asked)
            )
        )
    start = Start(granularity, scope, items, variables, tuple(domains))
    return start if start.passable(start.domains) else None


def numbers_of(point: Mapping[str, str], schedules: frozenset[str]) -> tuple[str, ...]:
    """Return the numbers that have a meaning.

    Args:
        point: Axis -> value of the strategy.
        schedules: Those that the pruned groups follow.
    """
    found: list[str] = []
    if point["recovery"] not in UNTRAINED:
        found += ["learning_rate", "recovery_steps", "batch_size"]
    if point["regularizer"] != "none":
        found.append("strength")
    if point["selection"] == "greedy" or schedules - {"one_shot"}:
        found.append("rounds")
    if "dynamic" in schedules:
        found.append("tolerance")
    return tuple(found)
