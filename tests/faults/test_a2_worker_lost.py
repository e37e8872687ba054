"""A2: a worker that is killed or runs out of memory costs one attempt of one candidate, never the search."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import numpy as np
import optuna
import psutil
import pytest
from executor_cases import ALSO_POOL, ENGINES, TESTS, faulty_setup, gather, job, mark, until, worker_processes
from faulty_task import NAP, Call, calls_in
from optuna.trial import TrialState

from autoprune.config.model import RunConfig
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search import run_search
from autoprune.search.executors.base import Executor
from autoprune.search.setup import Setup

MEMORY_MB = 1200
WORKERS = 2


@dataclass(frozen=True)
class Engine:
    """An engine of two workers at work."""

    executor: Executor
    setup: Setup

    def calls(self, steps: int) -> list[Call]:
        return [c for c in calls_in(self.setup.directory) if c.steps == steps]


@pytest.fixture(scope="module", params=ALSO_POOL)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("gate")))
        setup = faulty_setup(tmp_path_factory.mktemp("run"), workers=WORKERS)
        with closing(ENGINES[request.param](setup)) as executor:
            yield Engine(executor, setup)
        assert worker_processes() == []


class Killer(Thread):
    """Kills a worker at random, at a random moment after one has begun with a candidate, so many times."""

    def __init__(self, directory: Path, kills: int) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self.left = kills

    def run(self) -> None:
        rng = np.random.default_rng(0)
        while self.left:
            begun = len(calls_in(self._directory))
            until(lambda begun=begun: len(calls_in(self._directory)) > begun)
            time.sleep(rng.uniform(0.0, 1.5 * NAP))
            workers = worker_processes()
            if workers:
                with suppress(psutil.NoSuchProcess):
                    workers[rng.integers(len(workers))].kill()
                    self.left -= 1


def evaluate_under_fire(engine: Engine, kills: int, first: int) -> list[CandidateRecord]:
    """Return the records of as many candidates as it takes until so many workers were killed, and two more."""
    killer, records, number, underway = Killer(engine.setup.directory, kills), list[CandidateRecord](), first, 0
    mark(engine.setup, "recover", "nap")
    killer.start()
    while killer.is_alive():
        while engine.executor.free and killer.is_alive():
            engine.executor.submit(job(number, steps=number))
            number, underway = number + 1, underway + 1
        found = engine.executor.collect()
        records, underway = records + found, underway - len(found)
    assert killer.left == 0
    (engine.setup.directory / "recover").unlink()
    while underway:
        found = engine.executor.collect()
        records, underway = records + found, underway - len(found)
    assert [r.number for r in sorted(records, key=lambda r: r.number)] == list(range(first, number))
    return records + gather(engine.executor, [job(n, steps=n) for n in (number, number + 1)])


def check_kills(engine: Engine, kills: int, first: int) -> None:
    records = evaluate_under_fire(engine, kills, first)
    stored = {r.id: r for r in RecordStore(engine.setup.directory).load_all()}
    for record in records:
        assert stored[record.id].state == record.state
        assert len(engine.calls(record.number)) <= 2
        assert record.state == "complete" or (record.failure or {})["reason"] == "worker_lost"
    assert [r.state for r in records[-2:]] == ["complete", "complete"]
    assert engine.executor.free == WORKERS
    lost = sum(len(engine.calls(r.number)) - 1 for r in records if r.state == "complete")
    assert lost <= kills


def test_a2_a_candidate_whose_worker_died_is_evaluated_once_more_and_no_more(engine: Engine) -> None:
    mark(engine.setup, "recover", "kill", "once", steps=12)
    mark(engine.setup, "evaluate", "kill", steps=14)
    records = {r.number: r for r in gather(engine.executor, [job(n, steps=n) for n in (12, 13, 14)])}
    assert {n: r.state for n, r in records.items()} == {12: "complete", 13: "complete", 14: "failed"}
    assert {n: len(engine.calls(n)) for n in records} == {12: 2, 13: 1, 14: 2}
    failure = records[14].failure or {}
    assert failure["reason"] == "worker_lost"
    assert "SIGKILL" in failure["message"]


def test_a2_workers_killed_at_random_cost_no_candidate_more_than_one_retry(engine: Engine) -> None:
    check_kills(engine, kills=3, first=100)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a2_fifty_workers_killed_at_random_cost_no_candidate_more_than_one_retry(engine: Engine) -> None:
    check_kills(engine, kills=50, first=1000)


def run_out_of_memory(name: str, directory: Path, ends: int) -> list[object]:
    """Return why candidates failed that allocate without end, every other one in a process of its own."""
    setup = faulty_setup(directory, workers=1, memory_mb=MEMORY_MB)
    with closing(ENGINES[name](setup)) as executor:
        for number in range(20, 20 + ends):
            mark(setup, "recover", "memory" if number % 2 else "offspring_memory", steps=number)
        records = gather(executor, [job(n, steps=n) for n in range(20, 20 + ends)])
    assert Counter(c.steps for c in calls_in(directory)) == dict.fromkeys(range(20, 20 + ends), 1)
    assert worker_processes() == []
    return [(r.failure or {}).get("reason") for r in records]


@pytest.mark.parametrize("name", ALSO_POOL)
def test_a2_candidates_that_run_out_of_memory_fail_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run_out_of_memory(name, tmp_path / "run", ends=2) == ["memory"] * 2


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ALSO_POOL)
def test_a2_ten_candidates_that_run_out_of_memory_fail_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert run_out_of_memory(name, tmp_path / "run", ends=10) == ["memory"] * 10


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a2_a_search_whose_workers_are_killed_ends_with_nothing_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(TESTS)
    setup = faulty_setup(tmp_path / "marks", workers=WORKERS)
    search = {"workers": WORKERS, "sampler": "random", "budget": {"evaluations": 24}, "controls": 0}
    recovery = {"short_steps": 4, "full_steps": 6, "finalists": 2, "seeds": 1, "proxy_images": 32, "val_images": 64}
    sections = {"search": search, "recovery": recovery, "output": str(tmp_path)}
    config = RunConfig.model_validate(setup.config.model_dump(mode="json") | sections)
    mark(setup, "recover", "nap")
    killer = Killer(setup.directory, 6)
    killer.start()
    result = run_search(config)
    killer.join(1.0)
    assert killer.left == 0
    assert result.front.members
    study = optuna.load_study(study_name=config.name, storage=f"sqlite:///{tmp_path / config.name / 'study.db'}")
    assert len(study.trials) == 24
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    assert worker_processes() == []
