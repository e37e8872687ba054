"""What a sampler must bear in anybody's study: one suite over Optuna's own, the uniform sweep and the learned one."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState
from sampler_cases import (
    ACCURACY,
    MACS,
    PARAMETERS,
    assert_inside,
    context_of,
    directions,
    evaluate,
    example,
    key,
    learned,
    made,
    objective,
    study_of,
    trial_with,
)
from tiny import TinyNet

from autoprune.groups import ModelGroups, find_groups
from autoprune.search import sampler
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.objectives import Objective
from autoprune.search.observations import row_of
from autoprune.search.samplers import LEARNED, SAMPLERS
from autoprune.space import LEVEL_PREFIX

# Optuna's Gaussian process takes a second a proposal.
ALL = sorted(set(SAMPLERS) - {"gp"})
SEEDED = sorted(set(ALL) - {"uniform"})

every = pytest.mark.parametrize("name", ALL)


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def net() -> TinyNet:
    return TinyNet().eval()


@pytest.fixture(scope="module")
def groups(net: TinyNet) -> ModelGroups:
    return find_groups(net, example())


@pytest.fixture(scope="module")
def contexts(net: TinyNet, groups: ModelGroups) -> Callable[..., SamplerContext]:
    """Return a maker of contexts: space of few widths, two objectives, a dense model that is right 97 times of 100."""

    def make(objectives: Sequence[Objective] = (ACCURACY, MACS), **further: Any) -> SamplerContext:
        return context_of(net, groups, objectives, **further)

    return make


CONDITIONAL = {
    "scope": {"choices": ["per_group", "local", "global"]},
    "recovery": {"choices": ["recalibrate", "fine_tune"]},
    "schedule": {"choices": ["one_shot", "cubic", "dynamic"]},
    "regularizer": {"choices": ["none", "l1", "growing_l2"]},
    "regrowth": {"choices": ["none", "gradient"]},
    "learning_rate": {"low": 0.01, "high": 0.1},
    "strength": {"low": 1e-4, "high": 1e-2},
    "rounds": {"choices": [3, 5]},
}


@pytest.fixture(scope="module", params=["plain", "conditional"])
def context(request: pytest.FixtureRequest, contexts: Callable[..., SamplerContext]) -> SamplerContext:
    return contexts(strategy=CONDITIONAL if request.param == "conditional" else {})


def asked(context: SamplerContext, study: optuna.Study) -> tuple[optuna.Trial, Sequence[float]]:
    """Return the next trial, inside of the space, and its values, which it is not told yet."""
    trial = study.ask()
    values = objective(context)(trial)
    assert_inside(context, trial.params)
    return trial, values


@every
def test_proposals_lie_within_the_distributions(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    for params in evaluate(context, study, 14):
        assert_inside(context, params)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 14


@every
def test_optimize_runs_the_loop(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    study.optimize(objective(context), n_trials=12)
    assert len(study.best_trials) >= 1
    for trial in study.trials:
        assert_inside(context, trial.params)


@every
def test_threads_may_ask_at_the_same_time(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    study.optimize(objective(context), n_trials=14, n_jobs=2)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 14
    for trial in study.trials:
        assert_inside(context, trial.params)


@every
@pytest.mark.parametrize(
    "objectives",
    [(ACCURACY,), (ACCURACY, PARAMETERS), (ACCURACY, MACS, PARAMETERS)],
    ids=lambda chosen: "-".join(o.name for o in chosen),
)
def test_any_number_of_objectives_is_searched(
    name: str, objectives: Sequence[Objective], contexts: Callable[..., SamplerContext]
) -> None:
    context = contexts(objectives)
    study = study_of(context, made(name, context))
    for params in evaluate(context, study, 12):
        assert_inside(context, params)


@every
def test_trials_that_say_nothing_do_no_harm(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    levels = {n: d for n, d in context.space.distributions().items() if isinstance(d, IntDistribution)}
    level = next(iter(levels))
    study.add_trial(trial_with(context, TrialState.FAIL))
    study.add_trial(trial_with(context, TrialState.RUNNING))
    study.add_trial(trial_with(context, TrialState.COMPLETE, {level: 1}))
    study.add_trial(trial_with(context, TrialState.COMPLETE, {}))
    far = {level: IntDistribution(0, 99)}
    study.add_trial(trial_with(context, TrialState.COMPLETE, {level: 77}, far))
    alien = {"momentum": FloatDistribution(0.0, 1.0)}
    study.add_trial(trial_with(context, TrialState.COMPLETE, {"momentum": 0.5}, alien))
    for params in evaluate(context, study, 8):
        assert_inside(context, params)


@every
def test_pruned_trials_of_one_objective_do_no_harm(name: str, contexts: Callable[..., SamplerContext]) -> None:
    context = contexts((ACCURACY,))
    study = study_of(context, made(name, context))
    for number in range(9):
        trial, values = asked(context, study)
        if number % 3 == 1:
            trial.report(values[0], step=1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, values)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE] * 3
    assert all(t.params.keys() <= context.space.distributions().keys() for t in study.trials)


@every
def test_failures_and_infinite_values_are_survived(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    for number in range(12):
        trial, values = asked(context, study)
        if number % 3 == 0:
            study.tell(trial, state=TrialState.FAIL)
        elif number % 3 == 1:
            study.tell(trial, [-math.inf if d == "maximize" else math.inf for d in directions(context)])
        else:
            study.tell(trial, values)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE] * 4
    for params in evaluate(context, study, 2):
        assert_inside(context, params)


@every
def test_an_objective_that_raises_ends_its_trial_only(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))

    def breaking(trial: Trial) -> list[float]:
        values = objective(context)(trial)
        if trial.number % 2:
            raise ArithmeticError("diverged")
        return values

    study.optimize(breaking, n_trials=8, catch=(ArithmeticError,))
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL] * 4


@every
def test_trials_under_way_are_borne(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    evaluate(context, study, 6)
    open_trials = [study.ask() for _ in range(5)]
    proposed = [objective(context)(trial) for trial in open_trials]
    for trial, values in reversed(list(zip(open_trials, proposed, strict=True))):
        study.tell(trial, values)
        assert_inside(context, trial.params)


@every
def test_enqueued_trials_come_first(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    known = context.space.distributions()
    whole = {n: d.choices[-1] if isinstance(d, CategoricalDistribution) else d.high for n, d in known.items()}
    level = next(n for n in whole if n.startswith(LEVEL_PREFIX))
    study.enqueue_trial(whole)
    study.enqueue_trial({level: 2, "scope": "per_group"} if "scope" in whole else {level: 2})
    proposed = evaluate(context, study, 4)
    assert proposed[0] == {name: whole[name] for name in context.space.active(whole)}
    assert proposed[1][level] == 2
    for params in proposed:
        assert_inside(context, params)


@every
def test_trials_of_an_earlier_study_are_taken_over(name: str, context: SamplerContext) -> None:
    before = study_of(context, made(name, context))
    evaluate(context, before, 10)
    study = study_of(context, made(name, context))
    study.add_trials(before.trials)
    for params in evaluate(context, study, 5):
        assert_inside(context, params)
    assert len(study.trials) == 15


@every
def test_constraints_are_told_trial_by_trial(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    for _ in range(12):
        trial, values = asked(context, study)
        trial.set_constraint("accuracy>=0.8", 0.8 - values[0])
        study.tell(trial, values)
    assert all(t.constraints["accuracy>=0.8"] <= 0.0 for t in study.best_trials)


@every
def test_an_objective_without_parameters_works(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    for _ in range(4):
        study.tell(study.ask(), [0.5] * len(context.objectives))
    assert all(t.params == {} for t in study.trials)


@every
def test_a_dimension_that_the_space_does_not_have_is_sampled_too(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    for _ in range(6):
        trial = study.ask()
        values = objective(context)(trial)
        assert 0.1 <= trial.suggest_float("momentum", 0.1, 0.9) <= 0.9
        assert trial.suggest_categorical("nesterov", [True, False]) in (True, False)
        study.tell(trial, values)


@every
def test_a_space_of_one_dimension_works(name: str, contexts: Callable[..., SamplerContext]) -> None:
    context = contexts(criteria=("l1",), only=("inner",), levels=6)
    assert set(context.space.distributions()) == {"level/inner"}
    study = study_of(context, made(name, context))
    for params in evaluate(context, study, 12):
        assert_inside(context, params)


@every
def test_a_study_on_disk_works(name: str, context: SamplerContext, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'study.db'}"
    study = study_of(context, made(name, context), address)
    evaluate(context, study, 8)
    again = optuna.load_study(study_name=study.study_name, storage=address, sampler=made(name, context))
    for params in evaluate(context, again, 3):
        assert_inside(context, params)
    assert len(again.trials) == 11
    for opened in (study, again):
        opened._storage.remove_session()
        opened._storage._backend.engine.dispose()


@every
def test_a_sampler_can_be_pickled_in_the_middle_of_a_study(name: str, context: SamplerContext) -> None:
    study = study_of(context, made(name, context))
    evaluate(context, study, 6)
    study.sampler = pickle.loads(pickle.dumps(study.sampler))
    for params in evaluate(context, study, 4):
        assert_inside(context, params)


@every
def test_equal_seeds_and_results_give_equal_proposals(name: str, context: SamplerContext) -> None:
    first, second = (study_of(context, made(name, context)) for _ in range(2))
    assert evaluate(context, first, 14) == evaluate(context, second, 14)


@pytest.mark.parametrize("name", SEEDED)
def test_another_seed_gives_other_proposals(name: str, context: SamplerContext) -> None:
    other = replace(context, seed=context.seed + 1)
    proposed = [evaluate(c, study_of(c, made(name, c)), 30) for c in (context, other)]
    assert proposed[0] != proposed[1]


# What only the learned sampler promises.


@pytest.mark.parametrize("count", [2, 9, 16])
def test_proposals_follow_from_the_records_alone(context: SamplerContext, count: int) -> None:
    whole = study_of(context, learned(context))
    evaluate(context, whole, count)
    resumed = study_of(context, learned(context))
    resumed.add_trials(whole.trials)
    assert evaluate(context, resumed, 4) == evaluate(context, whole, 4)


def test_reseeding_does_not_change_the_proposals(context: SamplerContext) -> None:
    first, second = (study_of(context, learned(context)) for _ in range(2))
    second.sampler.reseed_rng()
    assert evaluate(context, first, 12) == evaluate(context, second, 12)


def test_nothing_is_proposed_twice_while_anything_is_new(contexts: Callable[..., SamplerContext]) -> None:
    context = contexts(only=("inner", "wide"), levels=3, evaluations=100)
    study = study_of(context, learned(context))
    proposed = [key(p) for p in evaluate(context, study, 18)]
    assert len(set(proposed)) == 18
    assert study.sampler.finished(study) == "exhausted"
    assert_inside(context, evaluate(context, study, 1)[0])


def test_nothing_is_proposed_twice_by_parallel_workers(context: SamplerContext) -> None:
    study = study_of(context, learned(context))
    study.optimize(objective(context), n_trials=30, n_jobs=2)
    proposed = [key(t.params) for t in study.trials]
    assert len(set(proposed)) == len(proposed)


def test_what_is_under_way_is_not_proposed_again(context: SamplerContext) -> None:
    study = study_of(context, learned(context))
    evaluate(context, study, 12)
    open_trials = [study.ask() for _ in range(10)]
    for trial in open_trials:
        context.space.suggest(trial)
    told = [key(t.params) for t in study.trials]
    assert len(set(told)) == len(told)


def test_a_straggler_does_not_make_every_proposal_dearer(
    context: SamplerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(context, learned(context))
    straggler = study.ask(context.space.distributions())
    evaluate(context, study, 24)
    read = []
    monkeypatch.setattr(sampler, "row_of", lambda trial, *others: read.append(trial.number) or row_of(trial, *others))
    asked = [study.ask(context.space.distributions()) for _ in range(3)]
    assert len({key(t.params) for t in (straggler, *asked)}) == 4
    assert len(read) <= 8


def test_what_failed_is_not_proposed_again(context: SamplerContext) -> None:
    study = study_of(context, learned(context))
    failed = set()
    for number in range(20):
        trial = study.ask()
        values = objective(context)(trial)
        assert key(trial.params) not in failed
        if number % 4 == 3:
            failed.add(key(trial.params))
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, values)
    assert failed


def test_every_proposal_names_its_origin_and_predictions_precede_measurements(context: SamplerContext) -> None:
    study = study_of(context, learned(context))
    evaluate(context, study, 30)
    told = [study.sampler.proposal(n) for n in range(30)]
    assert all(p is not None and p.origin for p in told)
    assert study.sampler.proposal(999) is None
    predicted = [(n, p) for n, p in enumerate(told) if p.predicted]
    assert predicted
    for number, proposal in predicted:
        figures = proposal.predicted["accuracy"]
        assert set(figures) == {"mean", "std", "at_evaluation"}
        assert 0 < figures["at_evaluation"] <= number
        assert math.isfinite(figures["mean"])
        assert figures["std"] >= 0.0


def test_signals_that_are_missing_or_useless_are_borne(context: SamplerContext) -> None:
    study = study_of(context, learned(context))
    for number in range(16):
        trial = study.ask()
        values = objective(context)(trial)
        if number % 2:
            trial.set_user_attr(SIGNAL, [None, "high", math.nan, math.inf][number // 2 % 4])
        study.tell(trial, values)
        assert_inside(context, trial.params)


def test_a_prior_of_lower_fidelity_is_taken(context: SamplerContext) -> None:
    before = study_of(context, learned(context))
    evaluate(context, before, 20)
    recovered = replace(context, fidelity="short", prior=tuple(before.trials))
    study = study_of(recovered, learned(recovered))
    proposed = [key(p) for p in evaluate(recovered, study, 8)]
    assert len(set(proposed)) == 8


def test_a_learned_search_finds_more_than_a_random_one(contexts: Callable[..., SamplerContext]) -> None:
    from autoprune.pareto import hypervolume

    context = contexts(levels=12)
    dense = context.dense["macs"]
    found = {}
    for name in ("random", LEARNED):
        study = study_of(context, made(name, context))
        evaluate(context, study, 30)
        rows = [(1.0 - t.values[0], math.log(t.values[1] / dense)) for t in study.trials]
        found[name] = hypervolume(rows, (1.0, 0.0))
    assert found[LEARNED] > found["random"]
