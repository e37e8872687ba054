"""Genotype: how much of every group a candidate removes, and how. Plain data with JSON and a digest; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from autoprune.axes import AXES
from autoprune.errors import ConfigError
from autoprune.registry import unknown_name

SPARSITY_DIGITS = 6


def _check_axis(axis: str, name: str) -> None:
    if name not in AXES[axis]:
        raise unknown_name(axis, name, list(AXES[axis]))


def _check_keys(where: str, data: Mapping[str, Any], known: set[str]) -> None:
    extra = sorted(set(data) - known)
    if extra:
        raise ConfigError(f"{where}: unknown key {extra[0]!r}.", hint=f"Known: {', '.join(sorted(known))}.")


@dataclass(frozen=True)
class Strategy:
    """How units are chosen and the network recovered.

    Args:
        criterion: Name on the criterion axis.
        recovery: Name on the recovery axis.
        learning_rate: Peak learning rate of recovery, > 0.
        recovery_steps: Optimizer steps at the search's own budget, >= 0; None takes the run's. Scaled for finalists.
    """

    criterion: str = "l1"
    recovery: str = "fine_tune"
    learning_rate: float = 0.02
    recovery_steps: int | None = None

    def __post_init__(self) -> None:
        _check_axis("criterion", self.criterion)
        _check_axis("recovery", self.recovery)
        if not 0.0 < self.learning_rate <= 10.0:
            raise ConfigError(f"learning_rate must lie in (0, 10]. Got {self.learning_rate}.")
        if self.recovery_steps is not None and self.recovery_steps < 0:
            raise ConfigError(f"recovery_steps must be >= 0. Got {self.recovery_steps}.")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Strategy:
        """Build a strategy from its JSON form; unknown keys are an error."""
        _check_keys("strategy", data, {f.name for f in fields(cls)})
        return cls(**data)


@dataclass(frozen=True)
class Policy:
    """A point of the search space.

    Args:
        sparsity: Group name -> fraction of its units removed, in [0, 1); groups left out stay whole.
        strategy: Choices for the whole model.
        overrides: Group name -> {"criterion": name}: choices for single groups.
    """

    sparsity: Mapping[str, float]
    strategy: Strategy = Strategy()
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.sparsity.items():
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"The sparsity of group {name!r} must lie in [0, 1). Got {value}.")
        for name, choice in self.overrides.items():
            _check_keys(f"overrides.{name}", choice, {"criterion"})
            _check_axis("criterion", choice["criterion"])
        cut = {k: round(float(v), SPARSITY_DIGITS) for k, v in sorted(self.sparsity.items())}
        kept = {k: v for k, v in cut.items() if v > 0.0}
        overrides = {
            k: MappingProxyType(dict(v))
            for k, v in sorted(self.overrides.items())
            if k in kept and v["criterion"] != self.strategy.criterion
        }
        object.__setattr__(self, "sparsity", MappingProxyType(kept))
        object.__setattr__(self, "overrides", MappingProxyType(overrides))

    def __reduce__(self) -> tuple[Any, ...]:
        return Policy.from_json, (self.to_json(),)

    def __hash__(self) -> int:
        return hash(self.digest)

    def criterion_of(self, group: str) -> str:
        """Return the criterion that ranks the units of a group."""
        choice = self.overrides.get(group)
        return choice["criterion"] if choice else self.strategy.criterion

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON form: equal policies have equal digests."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; `from_json` gives back an equal policy."""
        return {
            "sparsity": dict(self.sparsity),
            "strategy": asdict(self.strategy),
            "overrides": {k: dict(v) for k, v in self.overrides.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Policy:
        """Build a policy from its JSON form; unknown keys, names and values out of range are errors."""
        _check_keys("policy", data, {"sparsity", "strategy", "overrides"})
        return cls(data["sparsity"], Strategy.from_json(data.get("strategy", {})), data.get("overrides", {}))


def candidate_seed(run_seed: int, digest: str, repeat: int = 0) -> int:
    """Return a candidate's seed in [0, 2**31): a function of run seed, policy and repeat, not of worker or order."""
    text = f"{run_seed}:{digest}" + (f":{repeat}" if repeat else "")
    mixed = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(mixed[:4], "big") >> 1
