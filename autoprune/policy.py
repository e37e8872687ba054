"""Genotype: how much of every group a candidate removes, and how. Plain data with JSON and a digest; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, get_args

from autoprune.axes import AXES, PRESETS
from autoprune.errors import ConfigError
from autoprune.registry import unknown_name

SPARSITY_DIGITS = 6
OVERRIDABLE = ("criterion", "granularity", "schedule")
AmountKind = Literal["sparsity", "macs", "threshold"]
_ALWAYS_WRITTEN = frozenset({"criterion", "recovery", "learning_rate", "recovery_steps"})


def _check_axis(axis: str, name: str) -> None:
    if name not in AXES[axis]:
        raise unknown_name(axis, name, list(AXES[axis]))


def _check_range(name: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        raise ConfigError(f"{name} must {wanted}. Got {value}.")


def _is_written(field_: Field[Any], value: Any) -> bool:
    return field_.name in _ALWAYS_WRITTEN or value != field_.default


def _check_keys(where: str, data: Mapping[str, Any], known: set[str]) -> None:
    extra = sorted(set(data) - known)
    if extra:
        raise ConfigError(f"{where}: unknown key {extra[0]!r}.", hint=f"Known: {', '.join(sorted(known))}.")


@dataclass(frozen=True)
class Strategy:
    """How units are chosen and the network recovered.

    Fields that stand at their default are left out of the JSON form unless they were there from the start, so that
    digests of old policies stay what they were.

    Args:
        criterion: Name on the criterion axis.
        recovery: Name on the recovery axis.
        learning_rate: Peak learning rate of recovery, > 0.
        recovery_steps: Optimizer steps at the search's own budget, >= 0; None takes the run's. Scaled for finalists.
        normalization: Name on the normalization axis.
        granularity: Name on the granularity axis.
        scope: Name on the scope axis; `per_group` where the policy states every group's sparsity.
        selection: Name on the selection axis.
        schedule: Name on the schedule axis.
        regularizer: Name on the regularizer axis.
        regrowth: Name on the regrowth axis.
        optimizer: Name on the optimizer axis.
        batch_size: Examples a step of recovery; None takes the run's.
        strength: Factor of the regularizer, > 0; None takes the regularizer's own.
        rounds: Cuts of a schedule, or of greedy selection, >= 1.
        tolerance: Loss of the first metric at one cut above which a dynamic schedule takes it back, >= 0: in the
            metric's own unit where it is bounded, such as an accuracy, else relative.
    """

    criterion: str = "l1"
    recovery: str = "fine_tune"
    learning_rate: float = 0.02
    recovery_steps: int | None = None
    normalization: str = "none"
    granularity: str = "channel"
    scope: str = "per_group"
    selection: str = "top_k"
    schedule: str = "one_shot"
    regularizer: str = "none"
    regrowth: str = "none"
    optimizer: str = "sgd"
    batch_size: int | None = None
    strength: float | None = None
    rounds: int = 5
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        for axis in AXES:
            _check_axis(axis, getattr(self, axis))
        _check_range("learning_rate", self.learning_rate, 0.0 < self.learning_rate <= 10.0, "lie in (0, 10]")
        for name, least in (("recovery_steps", 0), ("batch_size", 1), ("rounds", 1)):
            value = getattr(self, name)
            _check_range(name, value, value is None or value >= least, f"be >= {least}")
        _check_range("strength", self.strength, self.strength is None or self.strength > 0.0, "be > 0")
        _check_range("tolerance", self.tolerance, self.tolerance >= 0.0, "be >= 0")

    @property
    def point(self) -> dict[str, str]:
        """The strategy as a point on the axes."""
        return {axis: getattr(self, axis) for axis in AXES}

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; `from_json` gives back an equal strategy."""
        return {f.name: getattr(self, f.name) for f in fields(self) if _is_written(f, getattr(self, f.name))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Strategy:
        """Build a strategy from its JSON form; unknown keys are an error."""
        _check_keys("strategy", data, {f.name for f in fields(cls)})
        return cls(**data)

    @classmethod
    def of_preset(cls, name: str, **changes: Any) -> Strategy:
        """Return a preset's strategy, with changes by field.

        Raises:
            UnknownNameError: No preset of that name.
        """
        if name not in PRESETS:
            raise unknown_name("strategy", name, list(PRESETS))
        preset = PRESETS[name]
        return cls.from_json({**preset.axes, **preset.settings, **changes})


@dataclass(frozen=True)
class Amount:
    """How much a scope removes, where it is not stated for every group.

    Args:
        kind: `sparsity`: share of units (or weights) removed, in [0, 1); `macs`: share of the multiply-accumulates
            that may stay, in (0, 1]; `threshold`: what scores below this multiple of the mean goes, > 0.
        value: The number.
        round_to: Widths that stay are multiples of this; "auto" as in a space.
        most: Largest share that is removed of any group, in (0, 1).
    """

    kind: AmountKind
    value: float
    round_to: int | Literal["auto"] = "auto"
    most: float = 0.95

    def __post_init__(self) -> None:
        if self.kind not in get_args(AmountKind):
            raise unknown_name("kind of amount", self.kind, list(get_args(AmountKind)))
        fits = {"sparsity": 0.0 <= self.value < 1.0, "macs": 0.0 < self.value <= 1.0, "threshold": self.value > 0.0}
        _check_range(f"amount.{self.kind}", self.value, fits[self.kind], "lie in its range")
        _check_range("amount.round_to", self.round_to, self.round_to == "auto" or self.round_to >= 1, "be >= 1 or auto")
        _check_range("amount.most", self.most, 0.0 < self.most < 1.0, "lie in (0, 1)")
        object.__setattr__(self, "value", round(float(self.value), SPARSITY_DIGITS))

    @classmethod
    def of(cls, kind: str, value: float, round_to: int | Literal["auto"] = "auto") -> Amount:
        """Return an amount of a kind that is given by name.

        Raises:
            UnknownNameError: No kind of that name.
        """
        for known in get_args(AmountKind):
            if known == kind:
                return cls(known, value, round_to)
        raise unknown_name("kind of amount", kind, list(get_args(AmountKind)))


@dataclass(frozen=True)
class Policy:
    """A point of the search space.

    Args:
        sparsity: Group (or weight, or `@kind`) name -> fraction of its units removed, in [0, 1); what is left out stays
            whole.
        strategy: Choices for the whole model.
        overrides: Group name -> choices for it alone, of `criterion`, `granularity` and `schedule`.
        amount: How much goes where the strategy's scope is local or global; then `sparsity` is empty.
    """

    sparsity: Mapping[str, float]
    strategy: Strategy = Strategy()
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    amount: Amount | None = None

    def __post_init__(self) -> None:
        for name, value in self.sparsity.items():
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"The sparsity of group {name!r} must lie in [0, 1). Got {value}.")
        for name, choice in self.overrides.items():
            _check_keys(f"overrides.{name}", choice, set(OVERRIDABLE))
            for axis, chosen in choice.items():
                _check_axis(axis, chosen)
        cut = {k: round(float(v), SPARSITY_DIGITS) for k, v in sorted(self.sparsity.items())}
        kept = {k: v for k, v in cut.items() if v > 0.0}
        object.__setattr__(self, "sparsity", MappingProxyType(kept))
        object.__setattr__(self, "overrides", MappingProxyType(self._own_choices(kept)))
        if (self.amount is None) != (self.strategy.scope == "per_group"):
            raise ConfigError(
                "A policy states a sparsity for every group under scope 'per_group', and one amount under the others."
            )
        if self.amount is not None and kept:
            raise ConfigError(f"Scope {self.strategy.scope!r} decides every group's sparsity; the policy states some.")

    def _own_choices(self, kept: Mapping[str, float]) -> dict[str, Mapping[str, str]]:
        """Return the overrides of groups that are cut, without what they would be anyhow."""
        out: dict[str, Mapping[str, str]] = {}
        for name, choice in sorted(self.overrides.items()):
            own = {axis: v for axis, v in sorted(choice.items()) if v != getattr(self.strategy, axis)}
            if own and (name in kept or self.amount is not None):
                out[name] = MappingProxyType(own)
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return Policy.from_json, (self.to_json(),)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def removes(self) -> bool:
        """Whether anything is pruned at all."""
        if self.amount is None:
            return bool(self.sparsity)
        return (self.amount.kind, self.amount.value) not in {("sparsity", 0.0), ("macs", 1.0)}

    def choice(self, group: str, axis: str) -> str:
        """Return what holds for a group on an axis: its own choice, else the strategy's."""
        return str(self.overrides.get(group, {}).get(axis, getattr(self.strategy, axis)))

    def criterion_of(self, group: str) -> str:
        """Return the criterion that ranks the units of a group."""
        return self.choice(group, "criterion")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON form: equal policies have equal digests."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; `from_json` gives back an equal policy."""
        out: dict[str, Any] = {
            "sparsity": dict(self.sparsity),
            "strategy": self.strategy.to_json(),
            "overrides": {k: dict(v) for k, v in self.overrides.items()},
        }
        return out if self.amount is None else {**out, "amount": asdict(self.amount)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """Build a policy from its JSON form; unknown keys, names and values out of range are errors."""
        _check_keys("policy", data, {"sparsity", "strategy", "overrides", "amount"})
        amount = data.get("amount")
        if amount is not None:
            _check_keys("amount", amount, {f.name for f in fields(Amount)})
            amount = Amount(**amount)
        return cls(data["sparsity"], Strategy.from_json(data.get("strategy", {})), data.get("overrides", {}), amount)


def candidate_seed(run_seed: int, digest: str, repeat: int = 0) -> int:
    """Return a candidate's seed in [0, 2**31): a function of run seed, policy and repeat, not of worker or order."""
    text = f"{run_seed}:{digest}" + (f":{repeat}" if repeat else "")
    mixed = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(mixed[:4], "big") >> 1
