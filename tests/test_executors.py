"""One contract for every engine: a job goes in, a record that is already on disk comes out, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from executor_cases import (
    ALSO_POOL,
    ALSO_RAY,
    ENGINES,
    SUPERVISED,
    TESTS,
    faulty_setup,
    gather,
    job,
    living_in,
    mark,
    own_children,
    until,
)
from faulty_task import ENDED, calls_in

from autoprune.errors import AutopruneError, ConfigError, StorageError, TaskError
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.executors.base import Executor
from autoprune.search.executors.retry import STARTS, Retries
from autoprune.search.executors.worker import Lost, WorkerProcess
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench

ORPHAN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from autoprune.config.model import RunConfig
from autoprune.search.executors.worker import WorkerProcess
from autoprune.search.setup import Setup
from autoprune.tasks.reference import TaskRef
config = RunConfig(task="faulty_task.py:make_task")
here = Path(sys.argv[1])
worker = WorkerProcess(Setup(config, TaskRef(config.task, {"directory": sys.argv[2]}, here), here, Path(sys.argv[2])))
print(worker.pid, "torch" in sys.modules, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Engine:
    """An engine at work."""

    name: str
    executor: Executor
    setup: Setup


@pytest.fixture(scope="module", params=ALSO_RAY)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine of two workers, if it has workers, that all tests share; nothing is left of it in the end."""
    before = own_children()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("gate")))
        setup = faulty_setup(tmp_path_factory.mktemp("run"))
        executor = ENGINES[request.param](setup)
        try:
            yield Engine(request.param, executor, setup)
        finally:
            executor.close()
        left = own_children() - before
        assert not [pid for pid in left if "autoprune" in " ".join(psutil.Process(pid).cmdline())]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """What evaluates without any engine."""
    return Workbench(faulty_setup(tmp_path_factory.mktemp("reference")))


def as_json(record: CandidateRecord | None) -> object:
    return None if record is None else json.loads(json.dumps(record.to_json()))


def evaluate_one(name: str, setup: Setup) -> None:
    with closing(ENGINES[name](setup)) as executor:
        gather(executor, [job(0)])


def test_every_job_comes_back_once_as_the_record_that_is_on_disk(engine: Engine) -> None:
    jobs = [job(n) for n in range(5)]
    records = gather(engine.executor, jobs)
    assert sorted(r.id for r in records) == sorted(j.id for j in jobs)
    assert {r.state for r in records} == {"complete"}
    store = RecordStore(engine.setup.directory)
    for record in records:
        assert as_json(store.load(record.id)) == as_json(record)
    assert engine.executor.collect() == []


def test_a_job_is_evaluated_alike_by_every_engine(engine: Engine, reference: Workbench) -> None:
    here, there = gather(engine.executor, [job(10)])[0], reference.run(job(10))
    assert (here.id, here.seed, here.digest) == (there.id, there.seed, there.digest)
    assert here.values["accuracy"] == there.values["accuracy"]
    assert (here.evaluation or {})["quality"] == (there.evaluation or {})["quality"]
    assert (here.evaluation or {})["cost"] == (there.evaluation or {})["cost"]


def test_values_do_not_depend_on_the_order_of_the_jobs(engine: Engine) -> None:
    jobs = [job(n) for n in range(11, 15)]
    first = {r.id: r.values["accuracy"] for r in gather(engine.executor, jobs)}
    store = RecordStore(engine.setup.directory)
    for candidate in first:
        store.discard(candidate)
    assert {r.id: r.values["accuracy"] for r in gather(engine.executor, reversed(jobs))} == first


def test_a_candidate_that_raises_is_a_failed_record_and_the_others_go_on(engine: Engine) -> None:
    mark(engine.setup, "recover", "fail", steps=17)
    records = gather(engine.executor, [job(n) for n in (15, 16, 17)])
    assert {r.number: r.state for r in records} == {15: "failed", 16: "complete", 17: "complete"}
    failure = next(r.failure for r in records if r.number == 15)
    assert failure is not None
    assert failure["reason"] == "error"
    assert "the candidate's own mistake" in failure["message"]


def test_as_many_jobs_are_taken_at_once_as_there_are_workers(engine: Engine) -> None:
    workers = 1 if engine.name == "in_process" else engine.setup.config.search.workers
    assert engine.executor.free == workers
    for number in range(workers):
        engine.executor.submit(job(20 + number))
        assert engine.executor.free == workers - number - 1
    gather(engine.executor, [])
    while engine.executor.free < workers:
        engine.executor.collect()


def test_more_jobs_than_workers_wait_for_their_turn(engine: Engine) -> None:
    jobs = [job(n) for n in range(25, 29)]
    for one in jobs:
        engine.executor.submit(one)
    assert engine.executor.free == 0
    records = []
    while found := engine.executor.collect():
        records += found
    assert sorted(r.id for r in records) == sorted(j.id for j in jobs)


def test_jobs_of_several_workers_overlap(engine: Engine) -> None:
    if engine.name not in SUPERVISED:
        assert engine.executor.free == 1
        return
    for number in (30, 31):
        mark(engine.setup, "recover", "nap", steps=number + 2)
    gather(engine.executor, [job(30), job(31)])
    one, other = (next(c for c in calls_in(engine.setup.directory, ENDED) if c.steps == n) for n in (32, 33))
    assert one.session != other.session
    assert max(one.started, other.started) < min(one.ended, other.ended)


def test_an_interrupt_of_the_driver_does_not_reach_the_candidates(engine: Engine) -> None:
    sessions = {c.session for c in calls_in(engine.setup.directory)} - {os.getsid(0)}
    for session in sessions:
        os.kill(session, signal.SIGINT)
    records = gather(engine.executor, [job(35), job(36)])
    assert [r.state for r in records] == ["complete", "complete"]
    assert {c.session for c in calls_in(engine.setup.directory) if c.steps in (37, 38)} <= sessions | {os.getsid(0)}


def test_results_that_cannot_be_written_end_the_run(engine: Engine) -> None:
    candidates = engine.setup.directory / "candidates"
    candidates.rename(candidates.with_name("aside"))
    candidates.write_text("in the way")
    try:
        with pytest.raises(StorageError):
            gather(engine.executor, [job(40)])
    finally:
        candidates.unlink()


@pytest.mark.parametrize("name", ALSO_RAY)
def test_a_task_that_cannot_be_built_ends_the_run_with_the_reason(name: str, tmp_path: Path) -> None:
    setup = faulty_setup(tmp_path, workers=1, args={"build": "fail"})
    with pytest.raises(TaskError, match="the candidate's own mistake"):
        evaluate_one(name, setup)


@pytest.mark.parametrize("name", ALSO_POOL)
def test_closing_while_a_candidate_runs_leaves_no_process_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    setup = faulty_setup(tmp_path / "run", workers=1)
    mark(setup, "recover", "offspring", steps=3)
    engine = ENGINES[name](setup)
    gather(engine, [job(0)])
    engine.submit(job(1))
    session = calls_in(setup.directory)[0].session
    until(lambda: len(living_in(session)) == 2)
    engine.close()
    assert living_in(session) == []
    engine.close()


@pytest.mark.parametrize("name", ALSO_POOL)
def test_closing_while_the_workers_start_leaves_no_process_behind(name: str, tmp_path: Path) -> None:
    before = own_children()
    engine = ENGINES[name](faulty_setup(tmp_path, workers=2))
    engine.close()
    left = own_children() - before
    assert not [pid for pid in left if "autoprune" in " ".join(psutil.Process(pid).cmdline())]


def test_a_memory_limit_below_what_the_task_itself_holds_is_refused(tmp_path: Path) -> None:
    worker = WorkerProcess(faulty_setup(tmp_path, memory_mb=60))
    with pytest.raises(ConfigError, match=r"executor\.memory_mb is 60"):
        worker.evaluate(job(0))
    assert living_in(worker.pid) == []


def test_workers_that_never_get_to_begin_end_the_run(tmp_path: Path) -> None:
    retries = Retries(faulty_setup(tmp_path))
    for _ in range(STARTS - 1):
        assert retries.settle(job(0), Lost("worker_lost", "exit status 1", started=False)) is None
    with pytest.raises(AutopruneError, match="exit status 1"):
        retries.settle(job(0), Lost("worker_lost", "exit status 1", started=False))


def test_a_lost_job_is_submitted_once_more_and_then_fails(tmp_path: Path) -> None:
    retries, lost = Retries(faulty_setup(tmp_path)), Lost("worker_lost", "killed by SIGKILL", 2.0)
    assert retries.settle(job(0), lost) is None
    record = retries.settle(job(0), lost)
    assert record is not None
    assert (record.state, record.failure) == (
        "failed",
        {"reason": "worker_lost", "stage": "worker", "message": "killed by SIGKILL"},
    )
    assert as_json(RecordStore(tmp_path).load(job(0).id)) == as_json(record)


@pytest.mark.parametrize("reason", ["timeout", "memory"])
def test_a_candidate_past_a_limit_fails_at_once(tmp_path: Path, reason: str) -> None:
    record = Retries(faulty_setup(tmp_path)).settle(job(0), Lost(reason, "too much", 2.0))
    assert record is not None
    assert (record.failure or {})["reason"] == reason
    assert record.seconds == 2.0


def test_a_record_that_its_lost_worker_had_still_written_counts(tmp_path: Path, reference: Workbench) -> None:
    written = reference.run(job(50))
    RecordStore(tmp_path).write(written)
    settled = Retries(faulty_setup(tmp_path)).settle(job(50), Lost("timeout", "too late"))
    assert as_json(settled) == as_json(written)


def test_a_worker_ends_with_its_supervisor_which_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(TESTS), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid, has_torch = supervisor.stdout.readline().split()
        assert has_torch == "False"
        assert living_in(int(pid)) == [int(pid)]
        supervisor.kill()
    until(lambda: living_in(int(pid)) == [], seconds=5.0)
