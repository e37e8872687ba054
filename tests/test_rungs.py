"""Promotion: who is stopped at a rung, and that looking at a model does not change its training."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from run_factory import bound_space, measured, stopped

from autoprune.config.model import RecoveryConfig
from autoprune.errors import CandidateError
from autoprune.pruning import as_recalibrated, fine_tune
from autoprune.search.executors.base import Job
from autoprune.search.rungs import RungBoard, RungPoint, Rungs, RungWatch, is_poor, rung_steps
from autoprune.tasks import Inputs
from autoprune.tasks.protocol import RecoverContext

numbers = st.floats(0.0, 1.0, width=16)
points = st.builds(RungPoint, st.just(15), numbers, numbers)


def at(value: float, macs: float, step: int = 15) -> RungPoint:
    return RungPoint(step, value, macs)


def test_a_candidate_behind_half_of_its_like_is_poor() -> None:
    known = [at(0.1, 1.0), at(0.2, 0.5), at(0.3, 0.2), at(0.9, 0.9)]
    assert is_poor(at(0.5, 1.0), known, 2)
    assert not is_poor(at(0.15, 0.6), known, 2)
    assert not is_poor(at(0.5, 0.1), known, 2)


def test_too_few_to_compare_with_stop_nobody() -> None:
    known = [at(0.1, 0.1)] * 3
    assert not is_poor(at(0.9, 0.9), known, 2)
    assert is_poor(at(0.9, 0.9), [*known, at(0.1, 0.1)], 2)


def test_only_candidates_at_the_same_step_are_compared() -> None:
    known = [at(0.1, 0.1, step=30)] * 9
    assert not is_poor(at(0.9, 0.9), known, 2)


@given(points, st.lists(points, max_size=20), st.integers(2, 4))
@settings(max_examples=60, deadline=None)
def test_a_candidate_that_nothing_dominates_goes_on(point: RungPoint, known: list[RungPoint], reduction: int) -> None:
    dominated = any(p[1:] != point[1:] and p.value <= point.value and p.macs <= point.macs for p in known)
    if not dominated:
        assert not is_poor(point, known, reduction)


@given(points, st.lists(points, max_size=20))
@settings(max_examples=60, deadline=None)
def test_what_is_poor_among_many_is_poor_under_a_harder_cut(point: RungPoint, known: list[RungPoint]) -> None:
    if is_poor(point, known, 2) and len(known) >= 6:
        assert is_poor(point, known, 3)


def test_rungs_are_shares_of_the_short_steps() -> None:
    assert rung_steps(RecoveryConfig(short_steps=60, rungs=(0.25, 0.5))) == (15, 30)
    assert rung_steps(RecoveryConfig(short_steps=2, rungs=(0.1, 0.5))) == (1,)
    assert rung_steps(RecoveryConfig(short_steps=1)) == ()
    assert rung_steps(RecoveryConfig(rungs=())) == ()


def test_the_board_keeps_reports_of_stopped_and_complete_candidates_and_travels() -> None:
    space = bound_space(16, 32)
    jobs = [Job(n, space.policy_of({"level/layer0": n}), "short") for n in range(3)]
    complete = measured(jobs[0], reports=stopped(jobs[0], (15, 0.3)).reports)
    board = RungBoard((15,), 2, [complete, stopped(jobs[1], (15, 0.4))])
    board.add(measured(jobs[2]))
    rungs = pickle.loads(pickle.dumps(board.rungs()))
    assert [p.value for p in rungs.points] == [0.3, 0.4]
    assert all(p.macs > 0 for p in rungs.points)


def train(watch: RungWatch | None, *, obedient: bool = True) -> dict[str, torch.Tensor]:
    task = tiny.make_task()
    model = task.build_model()
    context = RecoverContext(
        steps=12,
        lr=0.05,
        batch_size=32,
        device=torch.device("cpu"),
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(0),
        on_step=None if watch is None else watch.on_step,
        on_report=watch.on_report if watch is not None and obedient else None,
    )
    fine_tune(model, task, context)
    return copy.deepcopy(model.state_dict())


class Probe:
    """Scores a model in training as a run does, and remembers what it saw."""

    def __init__(self) -> None:
        self.task = tiny.make_task()
        self.values: list[float] = []

    def __call__(self, model: torch.nn.Module) -> tuple[float, float]:
        assert model.training

        def predict(inputs: Inputs) -> torch.Tensor:
            with torch.no_grad():
                return model(*inputs.args)

        with as_recalibrated(model, self.task, limit=64, seed=0):
            assert not any(m.training for m in model.modules())
            scored = self.task.evaluate(predict, "val", limit=64)
        assert model.training
        self.values.append(scored.metrics["cross_entropy"])
        return self.values[-1], 10.0


def test_looking_at_a_model_leaves_its_training_as_it_was() -> None:
    watch = RungWatch(Rungs((3, 6), 2), Probe())
    looked, blind = train(watch), train(None)
    assert all(torch.equal(looked[k], blind[k]) for k in blind)
    assert [r.step for r in watch.reports] == [3, 6]
    assert not watch.ended_early(12)


def test_a_poor_candidate_ends_at_its_rung() -> None:
    better = tuple(RungPoint(3, 0.0, 1.0) for _ in range(4))
    watch = RungWatch(Rungs((3, 6), 2, better), Probe())
    train(watch)
    assert [r.step for r in watch.reports] == [3]
    assert watch.ended_early(12)


def test_a_loop_that_ignores_the_request_trains_on_and_counts() -> None:
    better = tuple(RungPoint(3, 0.0, 1.0) for _ in range(4))
    watch = RungWatch(Rungs((3, 6), 2, better), Probe())
    deaf, blind = train(watch, obedient=False), train(None)
    assert all(torch.equal(deaf[k], blind[k]) for k in blind)
    assert not watch.ended_early(12)


def test_a_value_that_is_not_finite_fails_the_candidate() -> None:
    watch = RungWatch(Rungs((1,), 2), lambda _: (float("nan"), 1.0))
    with pytest.raises(CandidateError) as caught:
        watch.on_step(torch.nn.Linear(1, 1), 0)
    assert caught.value.reason == "nonfinite"
