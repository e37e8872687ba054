"""YAML -> search space as it is declared, before it meets a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from autoprune.axes import AXES
from autoprune.errors import ConfigError
from autoprune.groups.types import Granularity, ModelGroups
from autoprune.registry import unknown_name

if TYPE_CHECKING:
    from autoprune.space.bound import BoundSpace

Kind = Literal[
    Granularity, "ffn", "weight", "n_m", "weight_block", "rank", "depth", "activation", "norm", "pooling", "bias"
]
"""What can be searched: units of structural groups (`ffn`: the hidden layers of feed-forward nets, of any granularity),
weights of single tensors, modules or biases of one kind."""

OWN_AXES = ("criterion", "schedule")
"""Axes on which every group may choose for itself."""


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
    per_group: bool = Field(False, description="Whether every group chooses for itself, where it states a sparsity.")


class StepsSpec(_Section):
    """A count, chosen among a few."""

    choices: tuple[int, ...] = Field(min_length=1)


class AmountSpec(_Section):
    """The sparsity of the scopes local and global, chosen among a few."""

    choices: tuple[float, ...] = Field(min_length=1)


class RangeSpec(_Section):
    """A number from a range; `low` = `high` fixes it."""

    low: float = Field(gt=0.0, le=10.0)
    high: float = Field(gt=0.0, le=10.0)
    log: bool = True

    @property
    def middle(self) -> float:
        """The number half-way, on the range's scale."""
        return math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2


def _one(value: str) -> ChoiceSpec:
    return ChoiceSpec(choices=(value,))


class StrategySpec(_Section):
    """The strategy's dimensions; numbers exist only where the choices before them leave them a meaning."""

    criterion: ChoiceSpec = _one("l1")
    recovery: ChoiceSpec = _one("fine_tune")
    learning_rate: RangeSpec = RangeSpec(low=0.02, high=0.02)
    recovery_steps: StepsSpec | None = Field(None, description="Steps at the search's own budget; none: the run's.")
    normalization: ChoiceSpec = _one("none")
    granularity: ChoiceSpec = _one("channel")
    scope: ChoiceSpec = _one("per_group")
    selection: ChoiceSpec = _one("top_k")
    schedule: ChoiceSpec = _one("one_shot")
    regularizer: ChoiceSpec = _one("none")
    regrowth: ChoiceSpec = _one("none")
    optimizer: ChoiceSpec = _one("sgd")
    batch_size: StepsSpec | None = Field(None, description="Examples a step of recovery; none: the run's.")
    strength: RangeSpec | None = Field(None, description="Factor of a regularizer; none: the regularizer's own.")
    rounds: StepsSpec = Field(StepsSpec(choices=(5,)), description="Cuts of a schedule or of greedy selection.")
    tolerance: RangeSpec = Field(
        RangeSpec(low=0.1, high=0.1), description="Rise of the loss above which a dynamic schedule rolls back."
    )
    amount: AmountSpec | None = Field(
        None, description="Sparsities of the scopes local and global; none: steps of 5% up to sparsity.max."
    )

    def choice(self, axis: str) -> ChoiceSpec:
        """Return what is declared of an axis."""
        spec = getattr(self, axis)
        assert isinstance(spec, ChoiceSpec)
        return spec


class SearchSpace(_Section):
    """A search space as its YAML file states it, before it meets a model."""

    name: str
    description: str
    granularity: tuple[Kind, ...] = ("channel", "conv_group", "head", "head_dim", "block")
    sparsity: SparsitySpec = SparsitySpec()
    strategy: StrategySpec = StrategySpec()

    def bind(self, groups: ModelGroups, *, device: Literal["cpu", "cuda"] = "cpu") -> BoundSpace:
        """Return the space of one model: widths that exist, choices that are possible.

        Raises:
            ConfigError: A choice names nothing that exists, a tensor would be pruned in two ways, or nothing is left
                to choose.
        """
        from autoprune.space.binding import bound_space

        self._check()
        return bound_space(self, groups, device)

    def _check(self) -> None:
        strategy = self.strategy
        for axis, known in AXES.items():
            spec = strategy.choice(axis)
            for name in spec.choices:
                if name not in known:
                    raise unknown_name(axis, name, list(known))
            if spec.per_group and axis not in OWN_AXES:
                raise ConfigError(
                    f"strategy.{axis}: groups cannot choose for themselves in the space {self.name!r}.",
                    hint=f"per_group is for {' and '.join(OWN_AXES)}.",
                )
        for name in ("learning_rate", "strength", "tolerance"):
            numbers: RangeSpec | None = getattr(strategy, name)
            if numbers is not None and numbers.low > numbers.high:
                raise ConfigError(f"{name}: low must be <= high in the space {self.name!r}.")
        amounts = () if strategy.amount is None else strategy.amount.choices
        if any(not 0.0 <= value <= self.sparsity.max for value in amounts):
            raise ConfigError(
                f"strategy.amount: sparsities must lie in [0, {self.sparsity.max:g}] (sparsity.max) in the space "
                f"{self.name!r}."
            )
