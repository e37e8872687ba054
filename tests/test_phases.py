"""Phases of a search: what a sampler is shown, what becomes of its proposals, and why a phase ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from run_factory import (
    Invented,
    StandIn,
    bound_space,
    constraints,
    context,
    failed,
    measured,
    phase_of,
    stopped,
)

from autoprune.config.model import RunConfig
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.loop import Phase, Searcher, run_loop
from autoprune.search.phases import proxy_evaluations
from autoprune.search.rungs import RungBoard, RungPoint


def never() -> None:
    return None


def searched(
    phase: Phase, executor: Invented, evaluations: int, *, stop: Callable[[], str | None] = never, **known: Any
) -> tuple[list[CandidateRecord], Searcher]:
    searcher = Searcher(phase, known.pop("records", ()), **known)
    return list(run_loop(searcher, executor, stop, evaluations)), searcher


def outcomes(job: Job) -> CandidateRecord:
    """Every third candidate fails, every third is stopped."""
    return (measured, failed, lambda j: stopped(j, (15, 0.7)))[job.number % 3](job)


def shown(trial: FrozenTrial) -> tuple[Any, ...]:
    attributes = {k: v for k, v in trial.user_attrs.items() if k != "number"}
    return trial.state, trial.params, trial.values, attributes, trial.intermediate_values, trial.constraints


def test_origin_and_prediction_of_a_proposal_are_recorded_before_the_measurement() -> None:
    records, _ = searched(phase_of(StandIn()), Invented(), 3)
    assert [r.number for r in records] == [1, 2, 3]
    assert {r.origin for r in records} == {"infill"}
    assert [r.predicted["accuracy"]["at_evaluation"] for r in records] == [0, 1, 2]


def test_optunas_samplers_are_named_as_origin_and_warmed_up() -> None:
    sampler = optuna.samplers.RandomSampler(seed=0)
    records, _ = searched(phase_of(sampler, warm_start=2), Invented(), 4)
    assert [r.origin for r in records] == ["warm_start", "warm_start", "sampler", "sampler"]


def test_the_sampler_sees_states_values_signal_reports_and_constraints() -> None:
    sampler = StandIn()
    phase = phase_of(sampler, context=context(limits=constraints(max_latency_ms=1.5)))
    records, _ = searched(phase, Invented(outcome=outcomes), 4)
    trials = sampler.seen[-1]
    assert [t.state for t in trials] == [TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE]
    assert trials[0].user_attrs["failure"] == "recover: diverged: the loss is nan"
    assert trials[1].intermediate_values == {15: 0.7}
    assert trials[2].user_attrs["signal"] == (records[2].evaluation or {})["quality"]["val"]["cross_entropy"]["value"]
    assert trials[2].constraints == {"latency_ms<=1.5": trials[2].values[1] - 1.5}


def test_a_resumed_phase_shows_its_sampler_what_the_uninterrupted_one_did() -> None:
    limits = context(limits=constraints(max_parameters=500))
    first = StandIn()
    records, searcher = searched(phase_of(first, context=limits), Invented(outcome=outcomes), 6)
    assert searcher.propose() is not None
    again = StandIn()
    resumed = Searcher(phase_of(again, context=limits), records[::-1], first=7)
    job = resumed.propose()
    assert [shown(t) for t in again.seen[-1]] == [shown(t) for t in first.seen[-1]]
    assert len(again.seen[-1]) == 6
    assert job is not None
    assert job.number == 7


def test_as_many_candidates_are_under_way_as_there_are_workers_and_the_sampler_sees_them() -> None:
    sampler = StandIn()
    executor = Invented(workers=3)
    records, _ = searched(phase_of(sampler), executor, 8)
    assert executor.most == 3
    assert len(records) == 8
    assert [sum(t.state == TrialState.RUNNING for t in seen) for seen in sampler.seen[:5]] == [0, 1, 2, 2, 2]


def test_nothing_is_evaluated_twice() -> None:
    space = bound_space(16)
    records, searcher = searched(phase_of(StandIn(), context=context(space=space)), Invented(workers=2), 100)
    assert len({r.digest for r in records}) == len(records) <= 8
    assert searcher.ended == "exhausted"


def test_a_policy_that_a_control_has_measured_is_told_but_not_evaluated_again() -> None:
    records, _ = searched(phase_of(StandIn()), Invented(), 1)
    control = replace(records[0], origin="control:uniform")
    sampler = StandIn()
    found, _ = searched(phase_of(sampler), Invented(), 1, taken=[control], first=5)
    assert found[0].digest != control.digest
    assert sampler.seen[-1][0].values == [control.values["accuracy"], control.values["latency_ms"]]


@pytest.mark.parametrize(
    ("settings", "ends", "stop", "reason", "count"),
    [
        ({}, [], never, "evaluations", 5),
        ({}, [None, None, "plateau"], never, "plateau", 2),
        ({"plateau": False}, [None, "plateau", "plateau"], never, "evaluations", 5),
        ({"plateau": False}, [None, "exhausted"], never, "exhausted", 1),
        ({}, [], lambda: "minutes", "minutes", 0),
    ],
)
def test_a_phase_tells_why_it_ended(settings: Any, ends: Any, stop: Any, reason: str, count: int) -> None:
    records, searcher = searched(phase_of(StandIn(ends), **settings), Invented(), 5, stop=stop)
    assert (len(records), searcher.ended) == (count, reason)


def test_a_job_takes_along_what_its_like_have_reported() -> None:
    executor = Invented(outcome=lambda job: stopped(job, (15, float(job.number))))
    records, _ = searched(phase_of(StandIn(), board=RungBoard((15, 30), 2)), executor, 3)
    rungs = executor.done[-1].rungs
    macs = [(r.evaluation or {})["cost"]["macs"] for r in records]
    assert rungs is not None
    assert (rungs.steps, rungs.reduction) == ((15, 30), 2)
    assert rungs.points == (RungPoint(15, 1.0, macs[0]), RungPoint(15, 2.0, macs[1]))


def test_a_candidate_without_promotion_has_no_rungs() -> None:
    executor = Invented()
    searched(phase_of(StandIn()), executor, 1)
    assert executor.done[0].rungs is None


@pytest.mark.parametrize(
    ("settings", "groups", "expected"),
    [
        ({}, 15, 100),
        ({}, 54, 120),
        ({"search__budget__evaluations": 200}, 54, 148),
        ({"search__budget__evaluations": 8}, 15, 16),
        ({"search__budget__proxy_evaluations": 0}, 15, 0),
        ({"search__budget__proxy_evaluations": 300}, 15, 300),
        ({"search__sampler": "nsga2"}, 15, 0),
        ({"recovery__short_steps": 0}, 15, 0),
    ],
)
def test_untrained_candidates_come_in_reasonable_number(settings: dict[str, Any], groups: int, expected: int) -> None:
    plain: dict[str, Any] = {"task": "a.py:b"}
    for dotted, value in settings.items():
        *parents, key = dotted.split("__")
        node = plain
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = value
    assert proxy_evaluations(RunConfig.model_validate(plain), groups) == expected
