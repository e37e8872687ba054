"""Groups -> space: which widths and which strategies may be chosen, and how an Optuna trial chooses among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from autoprune.axes import AXES
from autoprune.compatibility import can_rank
from autoprune.config.reader import read_yaml
from autoprune.config.validation import validate
from autoprune.errors import ConfigError
from autoprune.groups.types import Granularity, ModelGroups, PruningGroup
from autoprune.policy import Policy, Strategy
from autoprune.registry import unknown_name

ROUND_LIMIT = {"cpu": 16, "cuda": 8}
LEVEL_PREFIX = "level/"
CRITERION_PREFIX = "criterion/"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SparsitySpec(_Section):
    """The grid of widths of a group."""

    max: float = Field(0.9, gt=0.0, lt=1.0, description="Largest fraction of a group's units that may be removed.")
    round_to: PositiveInt | Literal["auto"] = Field(
        "auto", description="Kept widths are multiples of this; auto = min(16 on a CPU, largest power of 2 <= width/8)."
    )
    min_width: PositiveInt = Field(1, description="Units that every group keeps at least.")
    max_levels: PositiveInt | None = Field(None, ge=2, description="At most this many widths a group, spread evenly.")


class ChoiceSpec(_Section):
    """A categorical choice; one value fixes it."""

    choices: tuple[str, ...] = Field(min_length=1)
    per_group: bool = Field(False, description="Whether every group chooses for itself.")


class StepsSpec(_Section):
    """Recovery steps at the search's own budget, chosen among a few."""

    choices: tuple[int, ...] = Field(min_length=1)


class RangeSpec(_Section):
    """A number from a range; `low` = `high` fixes it."""

    low: float = Field(gt=0.0, le=10.0)
    high: float = Field(gt=0.0, le=10.0)
    log: bool = True


class StrategySpec(_Section):
    """The strategy's dimensions."""

    criterion: ChoiceSpec = ChoiceSpec(choices=("l1",))
    recovery: ChoiceSpec = ChoiceSpec(choices=("fine_tune",))
    learning_rate: RangeSpec = RangeSpec(low=0.02, high=0.02)
    recovery_steps: StepsSpec | None = None


class SearchSpace(_Section):
    """A search space as its YAML file states it, before it meets a model."""

    name: str
    description: str
    granularity: tuple[Granularity, ...] = ("channel", "conv_group", "head", "head_dim", "block")
    sparsity: SparsitySpec = SparsitySpec()
    strategy: StrategySpec = StrategySpec()

    def bind(self, groups: ModelGroups, *, device: Literal["cpu", "cuda"] = "cpu") -> BoundSpace:
        """Return the space of one model: widths that exist, choices that are possible.

        Raises:
            ConfigError: A choice names nothing that exists, or nothing is left to choose.
        """
        self._check_names()
        fitting = tuple(g for g in groups.groups if g.granularity in self.granularity)
        widths = {g.name: _widths(g.width, self.sparsity, ROUND_LIMIT[device]) for g in fitting}
        widths = {name: w for name, w in widths.items() if len(w) > 1}
        if not widths:
            raise ConfigError(
                f"The space {self.name!r} leaves no group with more than one width.",
                hint="Lower sparsity.round_to or sparsity.min_width, or raise sparsity.max.",
            )
        return BoundSpace(self, tuple(g for g in fitting if g.name in widths), widths)

    def _check_names(self) -> None:
        strategy = self.strategy
        for axis, spec in (("criterion", strategy.criterion), ("recovery", strategy.recovery)):
            for name in spec.choices:
                if name not in AXES[axis]:
                    raise unknown_name(axis, name, list(AXES[axis]))
        if strategy.learning_rate.low > strategy.learning_rate.high:
            raise ConfigError(f"learning_rate: low must be <= high in the space {self.name!r}.")


@dataclass(frozen=True)
class BoundSpace:
    """A search space of one model.

    Args:
        spec: The space as declared.
        groups: Groups that are searched, in order of the forward pass.
        widths: Group name -> widths that may be kept, descending; the first is the dense width.
    """

    spec: SearchSpace
    groups: tuple[PruningGroup, ...]
    widths: Mapping[str, tuple[int, ...]]

    def criteria(self, group: PruningGroup | None = None) -> tuple[str, ...]:
        """Return the criteria that are possible for one group, or for all groups at once."""
        wanted = self.groups if group is None else (group,)
        return tuple(name for name in self.spec.strategy.criterion.choices if all(can_rank(g, name) for g in wanted))

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return every dimension by name; dimensions with a single value are left out."""
        out: dict[str, BaseDistribution] = {
            LEVEL_PREFIX + g.name: IntDistribution(0, len(self.widths[g.name]) - 1) for g in self.groups
        }
        strategy = self.spec.strategy
        if strategy.criterion.per_group:
            out |= {CRITERION_PREFIX + g.name: CategoricalDistribution(self._some_criteria(g)) for g in self.groups}
        else:
            out["criterion"] = CategoricalDistribution(self._some_criteria(None))
        out["recovery"] = CategoricalDistribution(strategy.recovery.choices)
        rate = strategy.learning_rate
        out["learning_rate"] = FloatDistribution(rate.low, rate.high, log=rate.log)
        if strategy.recovery_steps is not None:
            out["recovery_steps"] = CategoricalDistribution(strategy.recovery_steps.choices)
        return {name: dist for name, dist in out.items() if not dist.single()}

    def suggest(self, trial: BaseTrial) -> Policy:
        """Return the policy that a trial chooses."""
        chosen = {name: _suggest(trial, name, dist) for name, dist in self.distributions().items()}
        return self.policy_of(chosen)

    def policy_of(self, params: Mapping[str, Any]) -> Policy:
        """Return the policy of parameter values by dimension name; missing ones take the first choice."""
        sparsity = {
            g.name: 1.0 - self.widths[g.name][int(params.get(LEVEL_PREFIX + g.name, 0))] / g.width for g in self.groups
        }
        strategy = self.spec.strategy
        steps = strategy.recovery_steps
        first = self._some_criteria(None if not strategy.criterion.per_group else self.groups[0])[0]
        overrides = {}
        if strategy.criterion.per_group:
            for g in self.groups:
                name = params.get(CRITERION_PREFIX + g.name, self._some_criteria(g)[0])
                overrides[g.name] = {"criterion": str(name)}
        return Policy(
            sparsity,
            Strategy(
                criterion=str(params.get("criterion", first)),
                recovery=str(params.get("recovery", strategy.recovery.choices[0])),
                learning_rate=float(params.get("learning_rate", _middle(strategy.learning_rate))),
                recovery_steps=None if steps is None else int(params.get("recovery_steps", steps.choices[0])),
            ),
            overrides,
        )

    def uniform(self, sparsity: float, **choices: Any) -> dict[str, Any]:
        """Return the parameters that remove about `sparsity` of every group, with further choices by name."""
        params: dict[str, Any] = {}
        for g in self.groups:
            gaps = [abs(1.0 - w / g.width - sparsity) for w in self.widths[g.name]]
            params[LEVEL_PREFIX + g.name] = gaps.index(min(gaps))
        return params | choices

    def smallest(self) -> Policy:
        """Return the policy with every group at its least width: the floor of cost."""
        return self.policy_of({LEVEL_PREFIX + g.name: len(self.widths[g.name]) - 1 for g in self.groups})

    def for_proxy(self) -> BoundSpace:
        """Return the space without what only training tells apart: BatchNorm is recalibrated, no weight is trained."""
        rate = _middle(self.spec.strategy.learning_rate)
        fixed = {
            "recovery": ChoiceSpec(choices=("recalibrate",)),
            "learning_rate": RangeSpec(low=rate, high=rate),
            "recovery_steps": None,
        }
        strategy = self.spec.strategy.model_copy(update=fixed)
        return replace(self, spec=self.spec.model_copy(update={"strategy": strategy}))

    def size_log10(self) -> float:
        """Return the decimal logarithm of the number of policies, counting a continuous range as one choice."""
        counts = [len(self.widths[g.name]) for g in self.groups]
        counts += [len(d.choices) for d in self.distributions().values() if isinstance(d, CategoricalDistribution)]
        return sum(math.log10(c) for c in counts)

    def _some_criteria(self, group: PruningGroup | None) -> tuple[str, ...]:
        possible = self.criteria(group)
        if possible:
            return possible
        where = f"group {group.name!r}" if group else "all groups of this model"
        raise ConfigError(
            f"No criterion of the space {self.spec.name!r} is possible for {where}: "
            f"{', '.join(self.spec.strategy.criterion.choices)} need BatchNorm.",
            hint="Add l1 to strategy.criterion.choices, or set per_group: true.",
        )


def load_space(name: str, *, base: Path | None = None) -> SearchSpace:
    """Return the space of a ready-made name or of a YAML file (relative to `base`)."""
    path = Path(name) if base is None else base / name
    if path.suffix not in {".yaml", ".yml"}:
        known = {p.stem: p for p in _space_files()}
        if name not in known:
            raise unknown_name("search space", name, list(known))
        path = known[name]
    document = read_yaml(path)
    return validate(SearchSpace, document)


def list_spaces() -> dict[str, str]:
    """Return name -> description of the ready-made spaces."""
    return {p.stem: load_space(p.stem).description.strip() for p in _space_files()}


def _space_files() -> list[Path]:
    package = Path(__file__).parent
    for folder in (package / "search_spaces", package.parent / "search_spaces"):
        if folder.is_dir():
            return sorted(folder.glob("*.yaml"))
    raise ConfigError("The ready-made search spaces are missing from this installation.", hint="Reinstall autoprune.")


def _widths(width: int, spec: SparsitySpec, limit: int) -> tuple[int, ...]:
    """Return the widths that a group of `width` units may keep, descending from the dense one."""
    automatic = min(limit, 2 ** int(math.log2(max(width // 8, 1))))
    step = automatic if spec.round_to == "auto" else spec.round_to
    least = max(spec.min_width, math.ceil(round(width * (1.0 - spec.max), 6)), 1)
    kept = [w for w in range(step, width, step) if w >= least]
    grid = [width, *reversed(kept)]
    if spec.max_levels is None or len(grid) <= spec.max_levels:
        return tuple(grid)
    last = len(grid) - 1
    return tuple(grid[round(i * last / (spec.max_levels - 1))] for i in range(spec.max_levels))


def _middle(spec: RangeSpec) -> float:
    return math.sqrt(spec.low * spec.high) if spec.log else (spec.low + spec.high) / 2


def _suggest(trial: BaseTrial, name: str, dist: BaseDistribution) -> Any:
    if isinstance(dist, IntDistribution):
        return trial.suggest_int(name, dist.low, dist.high)
    if isinstance(dist, FloatDistribution):
        return trial.suggest_float(name, dist.low, dist.high, log=dist.log)
    if isinstance(dist, CategoricalDistribution):
        return trial.suggest_categorical(name, dist.choices)
    raise TypeError(f"Unknown distribution {dist!r}.")
