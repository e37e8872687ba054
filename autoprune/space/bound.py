"""Search space of one model: its dimensions, and how parameters become a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from autoprune.compatibility import can_rank
from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, Part, PruningGroup
from autoprune.policy import Amount, Policy, Strategy
from autoprune.space.allotments import Allotment, Allotments
from autoprune.space.binding import branches_of
from autoprune.space.branches import Branches
from autoprune.space.conditions import ORDER, Branch, Ranked, numbers_of
from autoprune.space.spec import ChoiceSpec, RangeSpec, SearchSpace, StepsSpec
from autoprune.space.widths import SPARSITY_STEP, Item

LEVEL_PREFIX = "level/"
CRITERION_PREFIX = "criterion/"
NUMBERS = ("learning_rate", "recovery_steps", "batch_size", "strength", "rounds", "tolerance")
_UNASKED = {name: getattr(Strategy(), name) for name in NUMBERS if name != "learning_rate"}

Ask = Callable[[str], Any]


@dataclass(frozen=True)
class Chosen:
    """What one walk through a space has chosen.

    Args:
        branch: The way along the axes.
        names: All dimensions that were asked for.
        levels: Index of a group -> its step, 0 = dense; of groups whose sparsity is chosen one by one.
        amount: Sparsity under the scopes local and global.
        own: Group -> axis -> what it chose for itself, of groups that are pruned.
        numbers: The numbers that have a meaning.
    """

    branch: Branch
    names: frozenset[str]
    levels: Mapping[int, int]
    amount: float | None
    own: Mapping[int, Mapping[str, str]]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class BoundSpace:
    """A search space of one model.

    Args:
        spec: The space as declared.
        groups: Groups and parts that are searched: structural groups in order of the forward pass, then weight tensors,
            then parts that are modules or biases.
        widths: Group name -> widths that may be kept, descending; the first is the dense width. Of a weight in low rank
            these are the entries of its factors.
        shares: Name -> the sparsity that a policy states for each width, where that is not the share of units removed.
        kinds: Name of a part -> the granularity that it is pruned by.
        model: All that the model has: what the scopes local and global work on. None = the groups searched.
        notes: What was left out, and why.
        allot: What the scopes local and global take of each group; None = the same share of all.
    """

    spec: SearchSpace
    groups: tuple[Item, ...]
    widths: Mapping[str, tuple[int, ...]]
    shares: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    model: ModelGroups | None = None
    notes: tuple[str, ...] = ()
    allot: Allotment | None = None

    def criteria(self, group: Item | None = None) -> tuple[str, ...]:
        """Return the criteria that are possible for one group, or for all groups at once."""
        wanted = self.groups if group is None else (group,)
        choices = self.spec.strategy.criterion.choices
        return tuple(name for name in choices if all(self._ranks(g, name) for g in wanted))

    def kind(self, group: Item) -> str:
        """Return what one unit of a group is: its granularity."""
        return group.granularity if isinstance(group, PruningGroup) else self.kinds[group.name]

    def removed(self, name: str) -> tuple[float, ...]:
        """Return the sparsity of every level of a group, ascending from 0."""
        if name in self.shares:
            return self.shares[name]
        widths = self.widths[name]
        return tuple(1.0 - w / self._by_name[name].width for w in widths)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return every dimension of every branch by name; those with a single value are left out.

        Raises:
            ConfigError: No combination of the declared choices is possible.
        """
        return dict(self._distributions)

    def active(self, params: Mapping[str, Any]) -> frozenset[str]:
        """Return the dimensions that count for parameter values: all others change nothing about the policy."""
        return self.chosen(self._reader(params)).names

    def suggest(self, trial: BaseTrial) -> Policy:
        """Return the policy that a trial chooses; it is asked for the dimensions that count, and no others."""
        return self._policy(self.chosen(lambda name: _suggest(trial, name, self._distributions[name])))

    def policy_of(self, params: Mapping[str, Any]) -> Policy:
        """Return the policy of parameter values by dimension name.

        Missing ones take the first choice, or the middle of a range; those that do not count are ignored.

        Raises:
            ConfigError: A value that counts is none of its dimension's.
        """
        return self._policy(self.chosen(self._reader(params)))

    def chosen(self, ask: Ask) -> Chosen:
        """Walk through the space, asking for every dimension that counts.

        Args:
            ask: Name of a dimension -> its value.
        """
        start, begun = self.branches.start(ask)
        names: list[str] = []

        def asked(name: str) -> Any:
            if name in self._distributions:
                names.append(name)
                return ask(name)
            return self._fixed(name)

        levels: dict[int, int] = {}
        amount = None
        if start.scope == "per_group":
            levels = {i: int(asked(LEVEL_PREFIX + self.groups[i].name)) for i in start.items}
        else:
            amount = float(asked("amount"))
        branch = self.branches.walk(start, begun, ask)
        own: dict[int, dict[str, str]] = {}
        for choice in branch.own:
            if levels[choice.item]:
                value = asked(choice.name) if choice.name else choice.options[0]
                own.setdefault(choice.item, {})[choice.axis] = str(value)
        numbers = {name: asked(name) for name in numbers_of(branch.point, _schedules(branch, own))}
        return Chosen(branch, frozenset((*branch.names, *names)), levels, amount, own, numbers)

    def uniform(self, sparsity: float, **choices: Any) -> dict[str, Any]:
        """Return the parameters that remove about `sparsity` of every group, with further choices by name.

        Each group gets the level next to it; where no group has a level of its own, the amount for all does.
        """
        params: dict[str, Any] = {LEVEL_PREFIX + g.name: _nearest(self.removed(g.name), sparsity) for g in self.groups}
        if "amount" in self._distributions:
            params["amount"] = self.amounts[_nearest(self.amounts, sparsity)]
        return params | self._usual | choices

    def smallest(self) -> Policy:
        """Return the policy with every group at its least width: the floor of cost."""
        return self.policy_of(self.uniform(1.0))

    def for_proxy(self) -> BoundSpace:
        """Return the space without what only training tells apart: BatchNorm is recalibrated, no weight is trained."""
        strategy = self.spec.strategy
        untrained = {"recovery": "recalibrate", "schedule": "one_shot", "regularizer": "none", "regrowth": "none"}
        fixed: dict[str, Any] = {axis: ChoiceSpec(choices=(value,)) for axis, value in untrained.items()}
        for name in ("learning_rate", "tolerance"):
            middle = getattr(strategy, name).middle
            fixed[name] = RangeSpec(low=middle, high=middle)
        fixed |= dict.fromkeys(("recovery_steps", "batch_size", "strength"))
        fixed["rounds"] = StepsSpec(choices=strategy.rounds.choices[:1])
        spec = self.spec.model_copy(update={"strategy": strategy.model_copy(update=fixed)})
        return replace(self, spec=spec)

    def size_log10(self) -> float:
        """Return the decimal logarithm of the number of policies, counting a continuous range as one choice."""
        found = self._distributions
        counts = {n: len(d.choices) for n in NUMBERS if isinstance(d := found.get(n), CategoricalDistribution)}
        return self.branches.size_log10([len(self.widths[g.name]) for g in self.groups], counts, len(self.amounts))

    def with_allotments(self, allot: Allotment) -> BoundSpace:
        """Return the space with what the scopes local and global would take of each group.

        Args:
            allot: Function of a strategy, of which criterion, normalization, granularity and scope are set, and an
                amount; it gives the sparsity of every group by name. It is asked once for each, and does not travel
                with the space: what is known by then does.
        """
        return replace(self, allot=Allotments(allot))

    def allotted(self, point: Mapping[str, str], amount: float) -> tuple[int, ...]:
        """Return the level of every group that an amount comes to under the scope of a point on the axes.

        Locally every group takes the width next to it; globally the widths are those of `with_allotments`, else the
        same.
        """
        concerned = self.branches.levels(point["granularity"])
        shares: Mapping[str, float] = {}
        if self.allot is not None and point["scope"] == "global":
            axes = {axis: point[axis] for axis in ("criterion", "normalization", "granularity", "scope")}
            shares = self.allot(Strategy.from_json(axes), self._amount(amount))
        return tuple(
            _nearest(self.removed(g.name), shares.get(g.name, amount)) if i in concerned else 0
            for i, g in enumerate(self.groups)
        )

    @cached_property
    def branches(self) -> Branches:
        """The ways along the axes."""
        for group in self.groups if self.spec.strategy.criterion.per_group else (None,):
            if not self.criteria(group):
                raise self._no_criterion(group)
        return branches_of(self.spec, self.groups, self.kinds, self.model)

    @cached_property
    def amounts(self) -> tuple[float, ...]:
        """The sparsities of the scopes local and global, ascending."""
        declared = self.spec.strategy.amount
        if declared is not None:
            return tuple(sorted(set(declared.choices)))
        if self.kinds and set(self.kinds.values()) == {"n_m"}:
            return (0.5,)
        steps = round(self.spec.sparsity.max / SPARSITY_STEP + 1e-9)
        found = [round(SPARSITY_STEP * n, 6) for n in range(1, steps + 1)]
        return tuple(a for a in found if a <= self.spec.sparsity.max) or (self.spec.sparsity.max,)

    @cached_property
    def _by_name(self) -> Mapping[str, Item]:
        return {group.name: group for group in self.groups}

    @cached_property
    def _distributions(self) -> dict[str, BaseDistribution]:
        out: dict[str, BaseDistribution] = {}
        if "per_group" in self.branches.scopes:
            levels = {i for g in self.branches.granularities for i in self.branches.levels(g)}
            for i in sorted(levels):
                name = self.groups[i].name
                out[LEVEL_PREFIX + name] = IntDistribution(0, len(self.widths[name]) - 1)
        if set(self.branches.scopes) - {"per_group"}:
            out["amount"] = CategoricalDistribution(self.amounts)
        for axis in ("granularity", "scope", *ORDER):
            for name, options in self.branches.dimensions.items():
                if name.partition("[")[0].partition("/")[0] == axis:
                    out[name] = CategoricalDistribution(options)
        out |= {name: dist for name in NUMBERS if (dist := self._number(name)) is not None}
        return {name: dist for name, dist in out.items() if not dist.single()}

    def _number(self, name: str) -> BaseDistribution | None:
        declared = getattr(self.spec.strategy, name)
        if declared is None or not self.branches.may_need(name):
            return None
        if isinstance(declared, RangeSpec):
            return FloatDistribution(declared.low, declared.high, log=declared.log)
        assert isinstance(declared, StepsSpec)
        return CategoricalDistribution(declared.choices)

    def _fixed(self, name: str) -> Any:
        """Return the value of what is no dimension: the only one, or where nothing is declared, the usual one."""
        if name.startswith(LEVEL_PREFIX):
            return 0
        if name == "amount":
            return self.amounts[0]
        declared = getattr(self.spec.strategy, name)
        if isinstance(declared, RangeSpec):
            return declared.middle
        return None if declared is None else declared.choices[0]

    def _reader(self, params: Mapping[str, Any]) -> Ask:
        def read(name: str) -> Any:
            dist = self._distributions[name]
            if name not in params:
                return self._first(name, dist)
            value = params[name]
            if isinstance(dist, IntDistribution) and not dist.low <= int(value) <= dist.high:
                raise ConfigError(f"{name} must lie in [{dist.low}, {dist.high}]. Got {value}.")
            if isinstance(dist, CategoricalDistribution) and value not in dist.choices:
                raise ConfigError(f"{name} must be one of {', '.join(map(str, dist.choices))}. Got {value!r}.")
            return value

        return read

    def _first(self, name: str, dist: BaseDistribution) -> Any:
        if isinstance(dist, IntDistribution):
            return dist.low
        return dist.choices[0] if isinstance(dist, CategoricalDistribution) else self._fixed(name)

    @cached_property
    def _usual(self) -> dict[str, str]:
        """The scope and the granularity under which most groups have a level of their own."""
        known = self._distributions
        out = {}
        if "granularity" in known:
            best = max(self.branches.granularities, key=lambda g: (len(self.branches.levels(g)), g != "scale"))
            out["granularity"] = best
        out |= {n: "per_group" for n in known if n.partition("[")[0] == "scope" and _offers(known[n], "per_group")}
        return out

    def _policy(self, chosen: Chosen) -> Policy:
        strategy = Strategy.from_json({**chosen.branch.point, **self._strategy_numbers(chosen.numbers)})
        if chosen.amount is not None:
            return Policy({}, strategy, {}, self._amount(chosen.amount))
        sparsity, overrides = {}, {}
        for index, step in chosen.levels.items():
            group = self.groups[index]
            sparsity[group.name] = self.removed(group.name)[step]
            own = dict(chosen.own.get(index, {}))
            if isinstance(group, Part) and group.kind == "tensor":
                own["granularity"] = self.kinds[group.name]
            overrides[group.name] = own
        return Policy(sparsity, strategy, overrides)

    def _strategy_numbers(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        numbers = {"learning_rate": self.spec.strategy.learning_rate.middle, **_UNASKED, **asked}
        return {n: float(v) if isinstance(v, float) else v for n, v in numbers.items()}

    def _amount(self, value: float) -> Amount:
        return Amount("sparsity", value, self.spec.sparsity.round_to, self.spec.sparsity.max)

    def _ranks(self, group: Item, criterion: str) -> bool:
        if isinstance(group, PruningGroup):
            return can_rank(group, criterion)
        return Ranked(self.kinds[group.name]).allows("criterion", criterion)

    def _no_criterion(self, group: Item | None) -> ConfigError:
        where = f"group {group.name!r}" if group else "all groups of this model"
        choices = self.spec.strategy.criterion.choices
        norms = any(isinstance(g, PruningGroup) for g in (self.groups if group is None else (group,)))
        why = "need BatchNorm" if norms else "do not rank its parts"
        return ConfigError(
            f"No criterion of the space {self.spec.name!r} is possible for {where}: {', '.join(choices)} {why}.",
            hint="Add l1 to strategy.criterion.choices, or set per_group: true."
            if norms
            else "Add contribution to strategy.criterion.choices for modules, l1 for weights, l2 for ranks.",
        )


def _schedules(branch: Branch, own: Mapping[int, Mapping[str, str]]) -> frozenset[str]:
    """Return the schedules that are followed: of the groups that are pruned, where each has its own."""
    if any(choice.axis == "schedule" for choice in branch.own):
        return frozenset(choice["schedule"] for choice in own.values())
    return frozenset((branch.point["schedule"],))


def _nearest(values: tuple[float, ...], wanted: float) -> int:
    gaps = np.abs(np.array(values) - wanted)
    return int(gaps.argmin())


def _offers(dist: BaseDistribution, value: str) -> bool:
    return isinstance(dist, CategoricalDistribution) and value in dist.choices


def _suggest(trial: BaseTrial, name: str, dist: BaseDistribution) -> Any:
    if isinstance(dist, IntDistribution):
        return trial.suggest_int(name, dist.low, dist.high)
    if isinstance(dist, FloatDistribution):
        return trial.suggest_float(name, dist.low, dist.high, log=dist.log)
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(name, dist.choices)
    raise TypeError(f"Unknown distribution {dist!r}.")
