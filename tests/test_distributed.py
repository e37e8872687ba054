"""Several processes train one candidate: as one process would, in its session, and all end when one fails."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from executor_cases import TESTS, until
from hypothesis import given, settings
from hypothesis import strategies as st
from team_task import FAIL, NAN, NOTES

from autoprune.config.model import RunConfig
from autoprune.errors import CandidateError
from autoprune.policy import Policy, Strategy
from autoprune.pruning import Team, distributed
from autoprune.pruning.distributed import share_of
from autoprune.runtimes import CPU
from autoprune.search.executors.base import Job
from autoprune.search.rungs import RungPoint, Rungs
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef

STEPS = 6


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


def bench_of(directory: Path, processes: int) -> Workbench:
    """Return a workbench whose candidates train in so many processes on the processor."""
    directory.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate(
        {
            "name": "team",
            "task": "team_task.py:make_task",
            "task_args": {"directory": str(directory)},
            "recovery": {"short_steps": STEPS, "batch_size": 33, "distillation": 0.5},
            "latency": {"targets": ["torch-eager-fp32-b1-t1"], "rounds": 5},
            "executor": {"threads": 1},
        }
    )
    bench = Workbench(Setup(config, TaskRef(config.task, config.task_args, TESTS), TESTS, directory, dense_ms=1.0))
    bench.devices = (CPU,) * processes
    return bench


def job(number: int, **changes: Any) -> Job:
    strategy = Strategy(recovery="distillation", learning_rate=0.05)
    return replace(Job(number, Policy({"first": 0.125 * (1 + number)}, strategy), "short"), **changes)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """Two processes that several tests train with."""
    bench = bench_of(tmp_path_factory.mktemp("team"), 2)
    yield bench
    bench.ranks.close()


def pids(bench: Workbench) -> list[int]:
    return [pid for pid, _ in bench.ranks._others]


def notes(bench: Workbench) -> list[tuple[int, int]]:
    lines = (bench.setup.directory / NOTES).read_text().splitlines()
    return [(int(pid), int(size)) for pid, size in map(str.split, lines)]


def test_two_processes_train_the_model_that_one_trains(team: Workbench, tmp_path: Path) -> None:
    alone = bench_of(tmp_path, 1).prune(job(0).policy, "short").model.state_dict()
    together = team.prune(job(0).policy, "short").model.state_dict()
    before = team.pruner.cut(job(0).policy).model.state_dict()
    assert max(float((alone[name] - before[name]).abs().max()) for name in alone) > 1e-3
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=1e-6), name


def test_each_process_sees_its_share_of_every_batch(team: Workbench) -> None:
    (team.setup.directory / NOTES).unlink(missing_ok=True)
    team.prune(job(1).policy, "short")
    seen = Counter(pid for pid, _ in notes(team))
    assert seen == {os.getpid(): STEPS, pids(team)[0]: STEPS}
    assert sum(size for _, size in notes(team)) >= STEPS * 30
    assert max(size for _, size in notes(team)) <= 17


def test_the_processes_stay_for_the_next_candidate_and_belong_to_the_worker_s_session(team: Workbench) -> None:
    team.prune(job(2).policy, "short")
    first = pids(team)
    team.prune(job(3).policy, "short")
    assert pids(team) == first
    assert len(first) == 1
    assert os.getsid(first[0]) == os.getsid(0)
    assert os.getpgid(first[0]) == os.getpgid(0)


def test_a_candidate_that_is_stopped_stops_in_all_processes(team: Workbench) -> None:
    better = tuple(RungPoint(3, 0.0, 1.0) for _ in range(6))
    (team.setup.directory / NOTES).unlink(missing_ok=True)
    record = team.run(job(4, rungs=Rungs((3,), 2, better)))
    assert record.state == "stopped"
    assert Counter(pid for pid, _ in notes(team)).most_common(1)[0][1] < STEPS
    assert team.run(job(5)).state == "complete"


def test_a_process_that_fails_fails_the_candidate_and_the_next_one_trains(team: Workbench) -> None:
    team.prune(job(2).policy, "short")
    (other,) = pids(team)
    marker = team.setup.directory / FAIL
    marker.write_text(str(other))
    record = team.run(job(6, repeat=1))
    marker.unlink()
    assert (record.state, (record.failure or {})["stage"]) == ("failed", "recover")
    until(lambda: not psutil.pid_exists(other), seconds=10.0)
    assert pids(team) == []
    assert team.run(job(6)).state == "complete"


def test_a_team_that_does_not_come_together_fails_the_candidate_and_the_next_one_trains(
    team: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = distributed._joined(Team(0, 2, tmp_path / "meeting"), torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(distributed, "PATIENCE", timedelta(seconds=1))
        with pytest.raises(CandidateError, match="come together") as caught:
            joined.__enter__()
    assert caught.value.stage == "recover"
    assert team.run(job(5)).state == "complete"


def test_a_loss_that_is_not_finite_in_one_share_diverges_for_all(team: Workbench) -> None:
    (team.setup.directory / NAN).touch()
    record = team.run(job(1, repeat=1))
    (team.setup.directory / NAN).unlink()
    assert (record.state, (record.failure or {})["reason"]) == ("failed", "diverged")


@given(st.integers(1, 40), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_shares_make_up_the_batch_and_weights_are_one_on_average(count: int, size: int) -> None:
    batch = (torch.arange(count), {"mask": torch.arange(count)[:, None], "scale": torch.ones(())})
    shares = [share_of(batch, rank, size) for rank in range(size)]
    assert sum(weight for _, weight in shares) == pytest.approx(size)
    if count < size:
        assert all(share is batch for share, _ in shares)
        return
    assert torch.equal(torch.cat([share[0] for share, _ in shares]), batch[0])
    assert torch.equal(torch.cat([share[1]["mask"] for share, _ in shares]), batch[1]["mask"])
    assert all(len(share[0]) >= 1 and share[1]["scale"].ndim == 0 for share, _ in shares)
    mean = sum(weight * share[0].double().mean() for share, weight in shares) / size
    assert float(mean) == pytest.approx(float(batch[0].double().mean()))


def test_batches_of_every_form_are_cut() -> None:
    named, weight = share_of(Pair(torch.arange(5), torch.arange(5) * 2), 1, 2)
    assert isinstance(named, Pair)
    assert (named.x.tolist(), named.y.tolist(), weight) == ([2, 3, 4], [4, 6, 8], 3 * 2 / 5)
    targets = [{"boxes": torch.zeros(n, 4)} for n in range(4)]
    (images, cut), _ = share_of([torch.zeros(4, 3, 2, 2), targets], 0, 2)
    assert (images.shape, [len(t["boxes"]) for t in cut]) == ((2, 3, 2, 2), [0, 1])
    assert share_of("text", 0, 2) == ("text", 1.0)
