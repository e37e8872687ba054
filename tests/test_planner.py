"""What the learned search proposes, and when: stages, resuming, the phase after proxies, stopping, trust."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import optuna
import pytest
from optuna.study import Study
from planner_cases import (
    COMMON,
    LATENCY,
    SMALL,
    ask,
    chain_context,
    figures,
    limits,
    observations,
    origins,
    regular,
    resumed,
    sampler_of,
    searched,
    space_of,
    tell,
    tiny_context,
    with_dense,
)
from sampler_cases import ACCURACY, MACS, PARAMETERS, assert_inside, key, study_of

from autoprune.pareto import non_dominated
from autoprune.predictor.targets import Target
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.genome import Genome
from autoprune.search.planner import Planner, SamplerOptions
from autoprune.search.prior import Prior
from autoprune.search.sensitivity import plain_row, probe_rows, removed_shares

WITHOUT_PREDICTOR = replace(SMALL, predictor=False)
WITHOUT_SEEDING = replace(SMALL, seeding=False)


pytestmark = pytest.mark.usefixtures("silent_optuna")


def test_each_group_alone_then_seeds_then_batches_and_nothing_twice() -> None:
    context, study, who = regular()
    assert who == ["sensitivity"] * 3 + ["seeding"] * 7 + ["infill"] * 16
    assert len({key(t.params) for t in study.trials}) == 26
    levels = [[t.params[f"level/{g.name}"] for g in context.space.groups] for t in study.trials[:3]]
    assert all((np.array(row) > 0).sum() == 1 for row in levels)
    assert (np.array(levels).max(axis=0) > 0).all()


def test_probes_remove_about_70_percent_of_one_group_with_the_usual_choices() -> None:
    genome = Genome(space_of(30, 20, 4, 6, levels=10))
    rows, removed = probe_rows(genome), removed_shares(genome)
    assert (rows[0] == plain_row(genome)).all()
    for group, row in enumerate(rows[1:]):
        assert abs(removed[group, row[group]] - 0.7) <= 0.1
        assert (np.delete(row, group) == np.delete(plain_row(genome), group)).all()


def test_seeds_cover_the_range_of_cost_and_try_every_criterion() -> None:
    context, study, _ = regular()
    seeds = study.trials[3:10]
    share = np.log([t.values[1] / context.dense["macs"] for t in seeds])
    assert share.min() < math.log(0.1)
    assert share.max() > math.log(0.9 * 0.95)
    assert {t.params["criterion"] for t in seeds} == {"l1", "l2"}


def test_the_dense_model_is_measured_first_where_it_is_unknown() -> None:
    context = replace(tiny_context(), dense={})
    study, who = searched(context, 17)
    assert who[:4] == ["sensitivity"] * 4
    assert study.trials[0].values[1] == max(t.values[1] for t in study.trials)
    assert set(who[4:]) == {"seeding", "infill"}


def test_with_too_few_evaluations_there_are_seeds_instead_of_probes() -> None:
    context = chain_context(space_of(*[8] * 9), evaluations=18)
    _, who = searched(context, 8)
    assert who[:4] == ["seeding"] * 4
    assert searched(replace(context, evaluations=20), 1)[1] == ["sensitivity"]


def test_many_groups_are_probed_together_with_neighbours_of_equal_width() -> None:
    genome = Genome(space_of(*[8] * 100, *[16] * 60))
    rows = probe_rows(genome)[1:, :160]
    assert len(rows) == 80
    assert ((rows > 0).sum(axis=0) == 1).all()
    assert all(len(set(genome.dense_widths[row > 0])) == 1 for row in rows)
    alternating = Genome(space_of(*[8, 16] * 80))
    assert len(probe_rows(alternating)) == 161


def test_a_search_of_160_groups_passes_from_probes_to_seeds() -> None:
    context = chain_context(space_of(*[8] * 160, levels=3, criteria=("l1",)), evaluations=300)
    study, who = searched(context, 82)
    assert who == ["sensitivity"] * 80 + ["seeding"] * 2
    assert_inside(context, study.trials[-1].params)


CONTEXTS = {
    "macs": lambda: (tiny_context(), SMALL),
    "latency": lambda: (tiny_context((ACCURACY, LATENCY)), SMALL),
    "dense unknown": lambda: (replace(tiny_context((ACCURACY, LATENCY)), dense={}), SMALL),
    "without predictor": lambda: (tiny_context(), WITHOUT_PREDICTOR),
    "without seeding": lambda: (tiny_context(), WITHOUT_SEEDING),
    "after proxies": lambda: (recovered_context(), SMALL),
    "constrained": lambda: (
        tiny_context((ACCURACY, MACS, PARAMETERS), constraints=limits(max_parameters=4000, max_drop=0.2)),
        SMALL,
    ),
}


@cache
def whole(name: str) -> tuple[SamplerContext, SamplerOptions, Study]:
    context, options = CONTEXTS[name]()
    return context, options, searched(context, 25, options)[0]


@pytest.mark.parametrize("count", [2, 6, 10, 14, 17])
@pytest.mark.parametrize("name", CONTEXTS)
def test_any_prefix_of_a_search_is_continued_as_the_search_went_on(name: str, count: int) -> None:
    context, options, before = whole(name)
    study = resumed(context, before.trials[:count], options)
    for trial in before.trials[count : count + 7 if count == 17 else count + 1]:
        asked = ask(study, context)
        assert asked.params == trial.params
        tell(study, context, asked)


def test_latencies_of_the_seeds_do_not_bring_more_seeds() -> None:
    who = origins(whole("latency")[2])
    assert 3 <= who.count("seeding") <= SMALL.seeds + 2
    assert who[-1] == "infill"


def test_what_is_under_way_counts_as_predicted_and_is_not_proposed_again() -> None:
    context, before, _ = regular()
    study = resumed(context, before.trials[:10])
    waiting = [ask(study, context) for _ in range(12)]
    assert len({key(t.params) for t in [*before.trials[:10], *waiting]}) == 22
    seen = observations(study, context)
    assert (len(seen), len(seen.pending)) == (10, 12)
    for trial in reversed(waiting):
        tell(study, context, trial)


@pytest.mark.parametrize("workers", [3, 8])
def test_several_workers_get_no_more_seeds_than_one(workers: int) -> None:
    context = tiny_context(workers=workers)
    study = resumed(context, [])
    waiting: list[optuna.Trial] = []
    for _ in range(26):
        waiting.append(ask(study, context))
        if len(waiting) == workers:
            tell(study, context, waiting.pop(0))
    assert 3 <= origins(study).count("seeding") <= origins(regular()[1]).count("seeding")


def test_a_trial_that_has_not_asked_for_its_parameters_yet_is_not_proposed_to_another() -> None:
    context = tiny_context()
    study = study_of(context, sampler_of(context))
    trials = [study.ask() for _ in range(14)]
    for trial in trials:
        context.space.suggest(trial)
    assert len({key(t.params) for t in trials}) == 14


def test_one_sampler_serves_two_studies_without_mixing_them() -> None:
    context, before, _ = regular()
    sampler = sampler_of(context)
    first, second = study_of(context, sampler), study_of(context, sampler)
    for trial in before.trials[:16]:
        asked = ask(first, context)
        assert asked.params == trial.params
        tell(first, context, asked)
    assert ask(second, context).params == before.trials[0].params
    assert sampler.proposal(12) is None


def test_when_all_trials_fail_the_search_goes_on_exploring() -> None:
    context = tiny_context()
    study = study_of(context, sampler_of(context))
    for _ in range(25):
        trial = ask(study, context)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert len({key(t.params) for t in study.trials}) == 25
    assert origins(study)[-5:] == ["explore"] * 5


@cache
def proxies() -> tuple[SamplerContext, Study]:
    context = tiny_context(levels=8)
    return context, searched(context, 24)[0]


@cache
def recovered_context() -> SamplerContext:
    """Return the phase after the proxies: what training adds may be chosen too."""
    context, study = proxies()
    spec = context.space.spec
    strategy = spec.strategy.model_dump() | {
        "recovery": {"choices": ["fine_tune", "distillation"]},
        "learning_rate": {"low": 0.01, "high": 0.1},
    }
    declared = type(spec).model_validate({**spec.model_dump(), "strategy": strategy})
    space = replace(context.space, spec=declared)
    return replace(context, space=space, fidelity="short", prior=tuple(study.trials))


def test_the_recovered_search_starts_from_the_front_of_the_proxies_and_deeper() -> None:
    before = proxies()[1]
    who = origins(whole("after proxies")[2])
    seeds = whole("after proxies")[2].trials[: who.count("seeding")]
    assert who[: len(seeds)] == ["seeding"] * len(seeds)
    assert "sensitivity" not in who
    usable = [t for t in before.trials if t.values[0] > 0.5]
    points = np.array([[-t.values[0], t.values[1]] for t in usable])
    front = [usable[i].params for i in np.flatnonzero(non_dominated(points))]
    known = [any(p.items() <= t.params.items() for p in front) for t in seeds]
    assert 0.5 <= np.mean(known) < 1.0
    cheapest = min(t.values[1] for t, taken in zip(seeds, known, strict=True) if taken)
    assert any(t.values[1] < cheapest for t, taken in zip(seeds, known, strict=True) if not taken)
    for name in ("recovery", "learning_rate"):
        assert len({t.params[name] for t in seeds}) >= 2


def test_proxies_are_a_feature_measured_where_known_and_predicted_elsewhere() -> None:
    context, before = recovered_context(), proxies()[1]
    prior, genome = Prior.of(context), Genome(context.space)
    assert prior is not None
    rows = np.array([genome.encode(t.params) for t in before.trials])
    target = Target(COMMON[0], context.dense["accuracy"])
    measured = target.learned([t.values[0] for t in before.trials])
    assert prior.features(genome, rows)[:, 0] == pytest.approx(measured)
    other = genome.random(80, np.random.default_rng(0))
    guessed = prior.features(genome, other)[:, 0]
    true = target.learned([figures(context, genome.decode(row))["accuracy"] for row in other])
    assert np.corrcoef(guessed, true)[0, 1] > 0.8


def test_too_few_proxies_are_no_prior() -> None:
    context = recovered_context()
    assert Prior.of(replace(context, prior=context.prior[:7])) is None
    assert Planner(replace(context, prior=context.prior[:7]), SMALL).prior is None
    assert Prior.of(replace(context, dense={})) is None


def test_criteria_of_single_groups_are_carried_from_the_proxies_and_learned_from() -> None:
    names = ("bn_scale", "l1", "l2")
    space = space_of(16, 12, 8, criteria=names, norms=(True, False, True), per_group=True)
    context = chain_context(space)
    study, who = searched(context, 16)
    assert who.count("infill") == 7
    asked = [t.params for t in study.trials if t.params["level/layer1"]]
    assert {params["criterion/layer1"] for params in asked} <= {"l1", "l2"}
    after = with_dense(replace(context, fidelity="short", prior=tuple(study.trials)))
    recovered, who = searched(after, 20)
    assert set(who) == {"seeding", "infill"}
    carried = {key(t.params) for t in study.trials} & {key(t.params) for t in recovered.trials[: who.count("seeding")]}
    assert carried
    assert len({t.params["criterion/layer0"] for t in recovered.trials if t.params["level/layer0"]}) > 1


def test_a_search_in_vain_reaches_a_plateau_and_a_fruitful_one_does_not() -> None:
    context = tiny_context()
    study, _ = searched(context, 26)
    assert study.sampler.finished(study) is None
    told = None
    for _ in range(60):
        trial = ask(study, context)
        tell(study, context, trial, lambda c, p: figures(c, p) | {"accuracy": 0.1, SIGNAL: 9.0})
        told = study.sampler.finished(study)
        if told is not None:
            break
    assert told == "plateau"


def test_a_small_space_is_exhausted_without_repeats() -> None:
    context = chain_context(space_of(6, levels=5, criteria=("l1",)))
    study = study_of(context, sampler_of(context))
    while study.sampler.finished(study) is None:
        tell(study, context, ask(study, context))
    assert len(study.trials) == 5 == len({key(t.params) for t in study.trials})
    assert ask(study, context).params == {"level/layer0": 0}


def judged(planner: Planner, context: SamplerContext, error: float) -> list[str]:
    """Return who proposes after 70 measurements that were predicted in the right (0) or the reverse (2) order."""
    genome = planner.genome
    study = resumed(context, [])
    rows = genome.unique(genome.random(90, np.random.default_rng(5)))[:70]
    for row in rows:
        study.enqueue_trial(genome.decode(row))
    for _ in rows:
        trial = study.ask()
        context.space.suggest(trial)
        accuracy = figures(context, trial.params)["accuracy"]
        trial.set_user_attr("predicted", {"accuracy": {"mean": 0.5 + (1.0 - error) * (accuracy - 0.5), "std": 0.1}})
        tell(study, context, trial)
    seen = observations(study, context)
    taken = {**seen.taken, **{row.tobytes(): 0 for row in [*planner._probes, *planner._seeds(seen.before(0))]}}
    return [p.origin for p in planner.plan(replace(seen, taken=taken))]


def test_a_predictor_that_misleads_is_set_aside_until_it_is_right_again() -> None:
    context = tiny_context()
    planner = Planner(context, SMALL)
    assert set(judged(planner, context, 2.0)) == {"explore"}
    assert planner.fallback is not None
    assert "pairs of about equal cost" in planner.fallback
    assert set(judged(planner, context, 0.0)) == {"infill"}
    assert planner.fallback is None


def test_without_its_predictor_it_changes_members_of_the_front_and_predicts_nothing() -> None:
    _, _, study = whole("without predictor")
    who = origins(study)
    assert who[:10] == ["sensitivity"] * 3 + ["seeding"] * 7
    assert who[10:] == ["explore"] * 15
    assert not any(study.sampler.proposal(n).predicted for n in range(25))


def test_without_seeding_it_starts_from_candidates_over_the_range_of_cost() -> None:
    context, _, study = whole("without seeding")
    who = origins(study)
    assert "sensitivity" not in who
    share = np.array([t.values[1] for t in study.trials[: who.count("seeding")]]) / context.dense["macs"]
    assert share.min() < 0.15
    assert share.max() > 0.6
    assert who[-1] == "infill"
