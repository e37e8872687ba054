"""Who proposes: samplers by name, and what a learned one tells beside its proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from autoprune.registry import Registry
from autoprune.search.context import SamplerContext
from autoprune.space import BoundSpace

LEARNED = "autoprune"
SWEEP_LEVELS = 10
POPULATION = (8, 50)

SamplerFactory = Callable[[SamplerContext], BaseSampler]
SAMPLERS: Registry[SamplerFactory] = Registry("sampler")
"""Name -> function of a phase's context."""


class Proposed(Protocol):
    """Who proposed a trial, and what is expected of it."""

    @property
    def origin(self) -> str:
        """Such as `sensitivity`, `seeding`, `infill` or `explore`."""
        ...

    @property
    def predicted(self) -> Mapping[str, Mapping[str, float]]:
        """Objective -> `mean`, `std` and `at_evaluation`; empty where nothing was predicted."""
        ...


@runtime_checkable
class LearnedSampler(Protocol):
    """What a sampler that predicts tells the run, beside proposing."""

    def proposal(self, trial_number: int) -> Proposed | None:
        """Return what is known of a trial that it proposed; None of any other."""
        ...

    def finished(self, study: Study) -> str | None:
        """Return `plateau` or `exhausted` when going on with a study is not worth it, else None."""
        ...

    def fallback_reason(self) -> str | None:
        """Return why it proposes without its predictor; None while it uses it."""
        ...

    def weights(self) -> Mapping[str, float]:
        """Return member of the ensemble -> its weight."""
        ...


@SAMPLERS.register(LEARNED)
def learned_sampler(context: SamplerContext) -> BaseSampler:
    """Learn quality from what was measured, and propose what improves the front most by its prediction."""
    from autoprune.search.sampler import AutopruneSampler

    return AutopruneSampler(context)


@SAMPLERS.register("random")
def random_sampler(context: SamplerContext) -> BaseSampler:
    """Draw every dimension uniformly and independently."""
    return RandomSampler(seed=context.seed)


@SAMPLERS.register("nsga2")
def nsga2_sampler(context: SamplerContext) -> BaseSampler:
    """Evolve a population (Deb et al., NSGA-II, 2002), sized so that a run sees about four generations or more."""
    low, high = POPULATION
    return NSGAIISampler(population_size=max(low, min(high, context.evaluations // 4)), seed=context.seed)


@SAMPLERS.register("tpe")
def tpe_sampler(context: SamplerContext) -> BaseSampler:
    """Model good and bad candidates by densities (Ozaki et al., Multiobjective TPE, 2020)."""
    return TPESampler(seed=context.seed)


@SAMPLERS.register("gp")
def gp_sampler(context: SamplerContext) -> BaseSampler:
    """Improve the expected hypervolume of a Gaussian process (Daulton et al., qEHVI, 2020)."""
    return GPSampler(seed=context.seed)


@SAMPLERS.register("uniform")
def uniform_sampler(context: SamplerContext) -> BaseSampler:
    """Remove the same share of every group, swept over the whole range: the control."""
    return UniformSampler(context.space)


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
        if isinstance(dist, CategoricalDistribution) and name != "amount"
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
