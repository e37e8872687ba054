"""Who proposes: Optuna's own samplers by name, and the uniform sweep as one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.registry import Registry
from autoprune.space import BoundSpace

SWEEP_LEVELS = 10
POPULATION = (8, 50)

SamplerFactory = Callable[[BoundSpace, int, int], BaseSampler]
SAMPLERS: Registry[SamplerFactory] = Registry("sampler")
"""Name -> function of (space, seed, evaluations of the whole run)."""


@SAMPLERS.register("random")
def random_sampler(space: BoundSpace, seed: int, evaluations: int) -> BaseSampler:
    """Draw every dimension uniformly and independently."""
    del space, evaluations
    return RandomSampler(seed=seed)


@SAMPLERS.register("nsga2")
def nsga2_sampler(space: BoundSpace, seed: int, evaluations: int) -> BaseSampler:
    """Evolve a population (Deb et al., NSGA-II, 2002), sized so that a run sees about four generations or more."""
    del space
    low, high = POPULATION
    return NSGAIISampler(population_size=max(low, min(high, evaluations // 4)), seed=seed)


@SAMPLERS.register("tpe")
def tpe_sampler(space: BoundSpace, seed: int, evaluations: int) -> BaseSampler:
    """Model good and bad candidates by densities (Ozaki et al., Multiobjective TPE, 2020)."""
    del space, evaluations
    return TPESampler(seed=seed)


@SAMPLERS.register("uniform")
def uniform_sampler(space: BoundSpace, seed: int, evaluations: int) -> BaseSampler:
    """Remove the same share of every group, swept over the whole range: the control."""
    del seed, evaluations
    return UniformSampler(space)


class UniformSampler(BaseSampler):
    """Sweeps one sparsity for all groups, and the categorical choices, in a fixed order.

    Args:
        space: The bound space whose dimensions are the trial's parameters.
    """

    def __init__(self, space: BoundSpace) -> None:
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every dimension of the space."""
        del study, trial
        return self._space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the sweep's point of this trial's number."""
        del study, search_space
        return sweep_point(self._space, trial.number)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a dimension that the sweep leaves open."""
        return RandomSampler(seed=trial.number).sample_independent(study, trial, param_name, param_distribution)


def sweep_point(space: BoundSpace, number: int) -> dict[str, Any]:
    """Return the parameters of the `number`-th point of the uniform sweep, for number >= 0.

    Sparsities come in van der Corput's order, so that any prefix covers the range; each later pass over them takes
    the next value of every categorical choice.
    """
    index, lap = number % SWEEP_LEVELS, number // SWEEP_LEVELS
    order = sorted(range(SWEEP_LEVELS), key=_van_der_corput)
    share = (SWEEP_LEVELS - order[index]) / SWEEP_LEVELS
    choices = {
        name: dist.choices[lap % len(dist.choices)]
        for name, dist in space.distributions().items()
        if isinstance(dist, CategoricalDistribution)
    }
    return space.uniform(share * space.spec.sparsity.max, **choices)


def _van_der_corput(number: int) -> float:
    """Return the base-2 radical inverse of `number`."""
    value, base = 0.0, 0.5
    while number:
        value += base * (number & 1)
        number >>= 1
        base /= 2
    return value
