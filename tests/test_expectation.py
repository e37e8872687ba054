"""Forecasts of the learned search: objectives of any kind, costs counted or modelled, constraints that steer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.study import Study
from planner_cases import COMMON, LATENCY, figures, limits, observations, regular, searched, tiny_context, widths_of
from sampler_cases import ACCURACY, MACS, PARAMETERS, key

from autoprune.requirements import Requirement
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.expectation import CostForecast, Expectation
from autoprune.search.objectives import Constraints, Objective
from autoprune.search.observations import measured_costs, observe
from autoprune.tasks.protocol import MetricSpec

pytestmark = pytest.mark.usefixtures("silent_optuna")


@cache
def timed() -> tuple[SamplerContext, Study, list[str]]:
    context = tiny_context((ACCURACY, LATENCY))
    return (context, *searched(context, 25))


METRICS = (
    *COMMON,
    MetricSpec("f1", "max", (0.0, 1.0)),
    MetricSpec("utility", "max", (-math.inf, math.inf)),
    MetricSpec("energy", "min", (-math.inf, math.inf)),
)
CROSS_ENTROPY = Objective("cross_entropy", "min", "value")
F1 = Objective("f1", "max", "fraction")


def many_figures(context: SamplerContext, params: Mapping[str, Any]) -> dict[str, float]:
    found = figures(context, params)
    loss = found[SIGNAL]
    return {**found, "f1": found["accuracy"] ** 2, "utility": -10.0 * loss, "energy": 3.0 * loss - 5.0}


@pytest.mark.parametrize(
    "objectives",
    [
        (CROSS_ENTROPY, MACS),
        (ACCURACY, F1),
        (ACCURACY,),
        (Objective("utility", "max", "value"), MACS),
        (Objective("energy", "min", "value"), MACS),
        (ACCURACY, LATENCY, PARAMETERS),
    ],
    ids=lambda chosen: "-".join(o.name for o in chosen),
)
def test_other_objectives_are_learned_and_better_than_chance(objectives: tuple[Objective, ...]) -> None:
    dense = many_figures(tiny_context(), {})
    told = {o.name: dense[o.name] for o in objectives} | {SIGNAL: dense[SIGNAL]}
    context = replace(tiny_context(), objectives=objectives, metrics=METRICS, dense=told)
    study, who = searched(context, 25, made=many_figures)
    assert who[10:] == ["infill"] * 15
    first = objectives[0].name
    pairs = [(study.sampler.proposal(n).predicted, study.trials[n].values) for n in range(10, 25)]
    assert all(set(p) == {o.name for o in objectives} for p, _ in pairs)
    assert all(math.isfinite(f[name]) for p, _ in pairs for f in p.values() for name in ("mean", "std"))
    assert np.corrcoef([p[first]["mean"] for p, _ in pairs], [v[0] for _, v in pairs])[0, 1] > 0.5


def test_values_that_are_equal_everywhere_do_no_harm() -> None:
    context = tiny_context()
    study, who = searched(context, 16, made=lambda c, p: figures(c, p) | {"accuracy": 0.5, "macs": 1e4, SIGNAL: 1.0})
    assert who[10:] == ["infill"] * 6
    assert len({key(t.params) for t in study.trials}) == 16


def test_counted_costs_above_a_limit_are_never_proposed_once_the_predictor_chooses() -> None:
    limit = limits(max_parameters=4000, max_drop=0.2)
    study, who = searched(tiny_context((ACCURACY, MACS, PARAMETERS), constraints=limit), 25)
    chosen = who.index("infill")
    assert set(who[chosen:]) == {"infill"}
    assert max(t.values[2] for t in study.trials[chosen:]) <= 4000 < max(t.values[2] for t in study.trials[:chosen])


def expectation(context: SamplerContext, study: Study) -> Expectation:
    seen = observations(study, context)
    genome = study.sampler._planner.genome
    widths = genome.widths(seen.rows)
    forecast = CostForecast(genome, context).fit(widths, measured_costs(seen, context))
    encode = study.sampler._planner._encode(study.sampler._planner._additive(seen))
    return Expectation(genome, context, encode, forecast).reach(seen, context.dense).fit(seen)


def test_a_measured_cost_rejects_beyond_the_margin_of_its_model_and_doubts_within() -> None:
    context, study, _ = timed()
    bound = 0.5 * context.dense["latency_ms"]
    limited = replace(context, constraints=limits(max_latency_ms=bound))
    model = expectation(limited, study)
    rows = model.genome.random(300, np.random.default_rng(0))
    chance = model.forecast(rows).chance
    excess = np.log(model.costs.predict("latency_ms", model.genome.widths(rows)) / bound)
    margin = model.costs.margin("latency_ms")
    assert margin > 0.0
    assert ((chance == 0.0) == (excess > margin)).all()
    assert ((chance > 0.5) == (excess < 0.0)).all()
    assert 0 < (chance == 0.0).sum() < len(rows)


def test_a_latency_limit_is_held_by_the_model_when_latency_is_an_objective() -> None:
    context = tiny_context((ACCURACY, LATENCY))
    bound = 0.4 * context.dense["latency_ms"]
    limited = replace(context, constraints=limits(max_latency_ms=bound))
    shares = []
    for study, who in (searched(limited, 30), timed()[1:]):
        ms = np.array([t.values[1] for t in study.trials if who[t.number] == "infill"])
        shares.append(float((ms <= bound).mean()))
        if len(shares) == 1:
            assert ms.max() < 1.5 * bound
    assert shares[0] > shares[1] + 0.2


@cache
def unlimited() -> list[dict[str, float]]:
    """Return the figures of the candidates that a search without limits has chosen by its predictor."""
    context, study, who = regular()
    return [figures(context, t.params) for t in study.trials if who[t.number] == "infill"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("latency_ms", lambda bound: limits(max_latency_ms=bound)),
        ("cross_entropy", lambda bound: limits(require=(Requirement("cross_entropy", "<=", bound),))),
        ("cross_entropy", lambda bound: limits(max_drop=bound - 0.1, metric=COMMON[1], dense=0.1)),
    ],
)
def test_a_limit_on_what_is_no_objective_steers_by_what_the_limit_tells(
    name: str, limit: Callable[[float], Constraints]
) -> None:
    free = np.array([f[name] for f in unlimited()])
    bound = float(np.quantile(free, 0.3))
    context = tiny_context(constraints=limit(bound))
    study, who = searched(context, 30)
    assert set(observations(study, context).aside) == {name}
    held = np.array([figures(context, t.params)[name] for t in study.trials if who[t.number] == "infill"])
    assert len(held) >= 8
    assert (held <= bound).mean() > 0.4
    assert held.max() < 1.5 * bound < free.max()


def test_the_values_beside_the_objectives_are_those_that_were_measured() -> None:
    demands = (Requirement("cross_entropy", ">=", 0.2), Requirement("parameters", "<=", 5000.0))
    context = tiny_context(constraints=limits(max_latency_ms=2.0, require=demands))
    study, _ = searched(context, 12)
    seen = observations(study, context)
    for name in ("cross_entropy", "parameters", "latency_ms"):
        wanted = [figures(context, t.params)[name] for t in study.trials]
        np.testing.assert_allclose(seen.aside[name], wanted)
    foreign = optuna.trial.create_trial(
        params=study.trials[0].params, distributions=study.trials[0].distributions, values=study.trials[0].values
    )
    foreign.number = 0
    told = observe([foreign], study.sampler._planner.genome, ["accuracy", "macs"], context.demands)
    assert np.isnan(told.aside["latency_ms"]).all()
    assert measured_costs(told, context)["macs"].tolist() == [study.trials[0].values[1]]


@pytest.mark.parametrize("text", ["latency_ms", "compressed_bytes"])
def test_a_cost_that_nothing_is_known_of_rejects_nothing(text: str) -> None:
    context, study, _ = regular()
    limited = replace(context, constraints=limits(require=(Requirement(text, "<=", 1e-3),)))
    model = expectation(limited, study)
    assert (model.forecast(model.genome.random(20, np.random.default_rng(0))).chance == 1.0).all()


def test_a_required_quality_weighs_by_its_probability_and_rejects_nothing_early() -> None:
    context, study, _ = regular()
    demand = replace(context, constraints=limits(require=(Requirement("accuracy", ">=", 0.9),)))
    model = expectation(demand, study)
    forecast = model.forecast(model.genome.random(300, np.random.default_rng(0)))
    expected, chance = forecast.mean[:, 0], forecast.chance
    assert (chance > 0.0).all()
    assert ((chance > 0.5) == (expected > 0.9)).all()
    assert chance[expected < 0.5].max() < 0.05


def test_the_largest_drop_is_a_requirement_on_the_first_metric() -> None:
    assert tiny_context().demands == {}
    dropped = limits(max_drop=0.02, max_parameters=10)
    assert dropped.bounds == {
        "parameters<=10": Requirement("parameters", "<=", 10.0),
        "drop(accuracy)<=0.02": Requirement("accuracy", ">=", pytest.approx(0.95)),
    }
    loss = limits(max_drop=0.02, metric=COMMON[1], dense=0.5)
    assert loss.bounds == {"drop(cross_entropy)<=0.02": Requirement("cross_entropy", "<=", 0.52)}


def test_a_demand_that_is_met_shrinks_what_counts_and_one_that_is_not_does_not() -> None:
    context, study, _ = regular()
    for relation, bound, feasible, worst in ((">=", 0.8, -0.1, 0.8), (">=", 0.8, 0.1, 0.5), ("<=", 0.8, -0.1, 0.5)):
        demand = replace(context, constraints=limits(require=(Requirement("accuracy", relation, bound),)))
        seen = replace(observations(study, context), violation=np.full(26, feasible))
        model = Expectation(study.sampler._planner.genome, demand, lambda rows: rows, CostForecast(None, demand))
        assert model.reach(seen, context.dense).ranges_["accuracy"] == (1.0, worst)


def test_latency_is_guessed_by_macs_until_three_measurements_teach_more() -> None:
    context, study, _ = timed()
    genome, seen = study.sampler._planner.genome, observations(study, context)
    rows = genome.random(60, np.random.default_rng(1))
    widths = genome.widths(rows)
    true = np.array([figures(context, genome.decode(row))["latency_ms"] for row in rows])
    guess = CostForecast(genome, context).fit(widths[:0], {"latency_ms": np.zeros(0)})
    learned = CostForecast(genome, context).fit(genome.widths(seen.rows), {"latency_ms": seen.values[:, 1]})
    share = context.costs.macs(widths) / context.costs.macs(genome.dense_widths[None])
    assert guess.predict("latency_ms", widths) == pytest.approx(share * context.dense["latency_ms"])
    errors = [np.abs(np.log(m.predict("latency_ms", widths) / true)).mean() for m in (guess, learned)]
    assert errors[1] < 0.3 * errors[0]
    assert learned.margin("latency_ms") < guess.margin("latency_ms")


def test_costs_that_are_predicted_are_those_that_are_measured() -> None:
    context, study, who = regular()
    for number in range(who.index("infill"), 26):
        expected = study.sampler.proposal(number).predicted["macs"]
        assert expected["mean"] == study.trials[number].values[1]
        assert expected["std"] == 0.0
        assert context.costs.macs(widths_of(context, study.trials[number].params))[0] == expected["mean"]
