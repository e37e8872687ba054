"""Spaces of made-up groups and searches of seconds: what the tests of the learned search's parts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial
from sampler_cases import ACCURACY, MACS, context_of, example, measured, study_of
from tiny import TinyNet

from autoprune.groups import ModelGroups, find_groups
from autoprune.groups.types import PruningGroup, SlicingPlan
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.evolution import Evolution
from autoprune.search.objectives import Constraints, Objective
from autoprune.search.observations import PREDICTED, Observations, observe
from autoprune.search.planner import SamplerOptions
from autoprune.search.sampler import AutopruneSampler
from autoprune.space import LEVEL_PREFIX, BoundSpace, SearchSpace
from autoprune.tasks.protocol import MetricSpec

SMALL = SamplerOptions(evolution=Evolution(population=30, generations=3))
LATENCY = Objective("latency_ms", "min", "ms", "log", "cpu")
COMMON = (MetricSpec("accuracy", "max", (0.0, 1.0)), MetricSpec("cross_entropy", "min", (0.0, float("inf"))))

Floats = npt.NDArray[np.float64]
Figures = Callable[[SamplerContext, Mapping[str, Any]], dict[str, float]]


class ChainCosts:
    """Costs of a chain of dense layers with the searched groups between them, 8 inputs and 4 outputs."""

    def macs(self, widths: npt.ArrayLike) -> Floats:
        whole = np.pad(np.asarray(widths, dtype=np.float64), ((0, 0), (1, 1)), constant_values=((0, 0), (8, 4)))
        return np.asarray((whole[:, 1:] * whole[:, :-1]).sum(axis=1))

    def parameters(self, widths: npt.ArrayLike) -> Floats:
        return np.asarray(self.macs(widths) + np.sum(widths, axis=1) + 4.0)

    def bytes(self, widths: npt.ArrayLike) -> Floats:
        return 4.0 * self.parameters(widths)


def space_of(
    *widths: int,
    levels: int = 5,
    criteria: Sequence[str] = ("l1", "l2"),
    norms: Sequence[bool] | None = None,
    per_group: bool = False,
    **strategy: Any,
) -> BoundSpace:
    """Return a space of groups of such widths; `norms` tells which have a BatchNorm."""
    starts = np.cumsum([0, *widths])
    groups = tuple(
        PruningGroup(f"layer{i}", int(starts[i]), w, "channel", ((f"layer{i}.weight", 0),), ("bn",) if norm else ())
        for i, (w, norm) in enumerate(zip(widths, norms or [True] * len(widths), strict=True))
    )
    declared = {
        "name": "made",
        "description": "-",
        "sparsity": {"max": 0.9, "round_to": 1, "max_levels": levels},
        "strategy": {"criterion": {"choices": list(criteria), "per_group": per_group}, **strategy},
    }
    plan = SlicingPlan(int(starts[-1]), ())
    return SearchSpace.model_validate(declared).bind(ModelGroups(groups, (), plan, "torch.export"))


def chain_context(space: BoundSpace, **further: Any) -> SamplerContext:
    """Return the context of a chain of dense layers, whose figures are `sampler_cases.measured`'s."""
    context = SamplerContext(space, 3, 60, (ACCURACY, MACS), COMMON, None, ChainCosts(), fidelity="proxy")
    return with_dense(replace(context, **further))


@cache
def tiny_groups() -> tuple[TinyNet, ModelGroups]:
    net = TinyNet().eval()
    return net, find_groups(net, example())


def tiny_context(objectives: Sequence[Objective] = (ACCURACY, MACS), **further: Any) -> SamplerContext:
    """Return the context of a real network, with its real costs; latency may be an objective."""
    constraints = further.pop("constraints", None)
    context = context_of(*tiny_groups(), (ACCURACY, MACS), **{"levels": 10, **further})
    return with_dense(replace(context, objectives=tuple(objectives), constraints=constraints))


def with_dense(context: SamplerContext) -> SamplerContext:
    found = figures(context, {})
    return replace(context, dense={o.name: found[o.name] for o in context.objectives} | {SIGNAL: found[SIGNAL]})


def figures(context: SamplerContext, params: Mapping[str, Any]) -> dict[str, float]:
    """Return the made-up figures with a latency that follows no other cost exactly."""
    found = measured(context, params)
    calls = 0.5 + 0.02 * sum(widths_of(context, params)[0])
    return {**found, "latency_ms": calls + found["macs"] / 1e5, "cross_entropy": found[SIGNAL]}


def widths_of(context: SamplerContext, params: Mapping[str, Any]) -> list[list[int]]:
    space = context.space
    return [[space.widths[g.name][int(params.get(LEVEL_PREFIX + g.name, 0))] for g in space.groups]]


def limits(**given: Any) -> Constraints:
    spec = {"max_latency_ms": None, "require": (), "max_drop": None, "metric": COMMON[0], "dense": 0.97}
    return Constraints(**{**spec, "target": "cpu", **given})


def sampler_of(context: SamplerContext, options: SamplerOptions = SMALL) -> AutopruneSampler:
    return AutopruneSampler(context, options)


def ask(study: Study, context: SamplerContext) -> Trial:
    """Return a trial with its parameters chosen, and told what was predicted as a run tells it."""
    trial = study.ask()
    context.space.suggest(trial)
    proposal = study.sampler.proposal(trial.number)
    if proposal is not None and proposal.predicted:
        trial.set_user_attr(PREDICTED, {name: dict(f) for name, f in proposal.predicted.items()})
    return trial


def tell(study: Study, context: SamplerContext, trial: Trial, made: Figures = figures) -> None:
    found = made(context, trial.params)
    trial.set_user_attr(SIGNAL, found[SIGNAL])
    if context.constraints is not None:
        extra = {"bytes": 4.0 * found["parameters"], "compressed_bytes": 3.6 * found["parameters"]}
        for name, value in context.constraints.violations({**found, **extra}, found["latency_ms"]).items():
            trial.set_constraint(name, value)
    study.tell(trial, [found[o.name] for o in context.objectives])


def searched(
    context: SamplerContext, count: int, options: SamplerOptions = SMALL, made: Figures = figures
) -> tuple[Study, list[str]]:
    """Return the study of a serial search, and who proposed each trial."""
    study = study_of(context, sampler_of(context, options))
    for _ in range(count):
        tell(study, context, ask(study, context), made)
    return study, origins(study)


def origins(study: Study) -> list[str]:
    told = [study.sampler.proposal(t.number) for t in study.trials]
    return ["" if p is None else p.origin for p in told]


def resumed(context: SamplerContext, trials: Sequence[FrozenTrial], options: SamplerOptions = SMALL) -> Study:
    """Return a study with a fresh sampler and some trials of another."""
    study = study_of(context, sampler_of(context, options))
    study.add_trials(trials)
    return study


def observations(study: Study, context: SamplerContext) -> Observations:
    genome = study.sampler._planner.genome
    return observe(study.trials, genome, [o.name for o in context.objectives], context.demands)


@cache
def regular() -> tuple[SamplerContext, Study, list[str]]:
    """Return the context, the study and the origins of one finished search on the tiny network."""
    context = tiny_context()
    return (context, *searched(context, 26))
