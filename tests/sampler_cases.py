"""Small spaces with made-up figures, in which samplers are tried out without training anything."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from torch import nn

from autoprune.groups import ModelGroups
from autoprune.predictor.cost import CostModel
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.objectives import Objective
from autoprune.search.samplers import LEARNED, SAMPLERS
from autoprune.space import LEVEL_PREFIX, BoundSpace, SearchSpace
from autoprune.tasks.protocol import Inputs, MetricSpec

ACCURACY = Objective("accuracy", "max", "fraction")
MACS = Objective("macs", "min", "count", "log")
PARAMETERS = Objective("parameters", "min", "count", "log")


def context_of(
    net: nn.Module,
    groups: ModelGroups,
    objectives: Sequence[Objective],
    *,
    levels: int = 4,
    criteria: Sequence[str] = ("l1", "l2"),
    only: Sequence[str] | None = None,
    strategy: Mapping[str, Any] | None = None,
    **further: Any,
) -> SamplerContext:
    space = bound(groups, levels, criteria, only, strategy or {})
    costs = CostModel.of(net, groups, example(), [g.name for g in space.groups])
    context = SamplerContext(
        space=space,
        seed=3,
        evaluations=40,
        objectives=tuple(objectives),
        metrics=(MetricSpec("accuracy", "max", (0.0, 1.0)), MetricSpec("cross_entropy", "min", (0.0, math.inf))),
        constraints=None,
        costs=costs,
        fidelity="proxy",
    )
    figures = measured(context, {})
    dense = {o.name: figures[o.name] for o in objectives} | {SIGNAL: figures[SIGNAL]}
    return replace(context, dense=dense, **further)


def example() -> Inputs:
    return Inputs((torch.zeros(1, 1, 8, 8),), {})


def bound(
    groups: ModelGroups,
    levels: int,
    criteria: Sequence[str],
    only: Sequence[str] | None,
    strategy: Mapping[str, Any],
) -> BoundSpace:
    spec = SearchSpace.model_validate(
        {
            "name": "small",
            "description": "-",
            "sparsity": {"max": 0.8, "round_to": 1, "max_levels": levels},
            "strategy": {"criterion": {"choices": criteria}, "recovery": {"choices": ["recalibrate"]}, **strategy},
        }
    )
    space = spec.bind(groups)
    if only is None:
        return space
    kept = tuple(g for g in space.groups if g.name in only)
    return BoundSpace(space.spec, kept, {g.name: space.widths[g.name] for g in kept})


def measured(context: SamplerContext, params: Mapping[str, Any]) -> dict[str, float]:
    """Return made-up figures: what groups lose adds up, more to the front of the network; l2 loses more than l1."""
    space = context.space
    levels: Sequence[int] = [int(params.get(LEVEL_PREFIX + g.name, 0)) for g in space.groups]
    if params.get("scope", "per_group") != "per_group":
        point = {"granularity": "channel", "scope": params["scope"], "criterion": "l1", "normalization": "none"}
        levels = space.allotted(point, params["amount"])
    widths = [[space.widths[g.name][level] for g, level in zip(space.groups, levels, strict=True)]]
    removed = [1.0 - w / g.width for w, g in zip(widths[0], space.groups, strict=True)]
    loss = sum(r**2 / (place + 1.0) for place, r in enumerate(removed))
    loss *= 1.3 if params.get("criterion") == "l2" else 1.0
    return {
        "accuracy": 0.97 * math.exp(-loss),
        SIGNAL: 0.1 + 2.0 * loss,
        "macs": float(context.costs.macs(widths)[0]),
        "parameters": float(context.costs.parameters(widths)[0]),
    }


def made(name: str, context: SamplerContext) -> BaseSampler:
    return SAMPLERS[name](context)


def learned(context: SamplerContext) -> Any:
    """Return the learned sampler, with what it tells beyond Optuna's contract."""
    return made(LEARNED, context)


def study_of(context: SamplerContext, sampler: BaseSampler, storage: str | None = None) -> Study:
    return optuna.create_study(directions=directions(context), sampler=sampler, storage=storage)


def directions(context: SamplerContext) -> list[str]:
    return ["maximize" if o.direction == "max" else "minimize" for o in context.objectives]


def objective(context: SamplerContext) -> Callable[[Trial], list[float]]:
    def run(trial: Trial) -> list[float]:
        context.space.suggest(trial)
        found = measured(context, trial.params)
        trial.set_user_attr(SIGNAL, found[SIGNAL])
        return [found[o.name] for o in context.objectives]

    return run


def evaluate(context: SamplerContext, study: Study, count: int = 1) -> list[dict[str, Any]]:
    """Ask, measure and tell; return what was proposed."""
    out = []
    for _ in range(count):
        trial = study.ask()
        values = objective(context)(trial)
        study.tell(trial, values)
        out.append(dict(trial.params))
    return out


def assert_inside(context: SamplerContext, params: Mapping[str, Any]) -> None:
    known = context.space.distributions()
    assert set(params) == context.space.active(params)
    for name, value in params.items():
        assert known[name]._contains(known[name].to_internal_repr(value)), (name, value)


def key(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True)


def trial_with(
    context: SamplerContext,
    state: TrialState,
    params: Mapping[str, Any] | None = None,
    distributions: Mapping[str, BaseDistribution] | None = None,
) -> FrozenTrial:
    """Return a trial made elsewhere; without `params` it has the first value of every dimension."""
    known = {**context.space.distributions(), **(distributions or {})}
    chosen = {name: first(d) for name, d in known.items()} if params is None else dict(params)
    values = [1.0] * len(context.objectives) if state is TrialState.COMPLETE else None
    return create_trial(state=state, params=chosen, distributions={n: known[n] for n in chosen}, values=values)


def first(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return distribution.low
