"""Two halves: one worker trains and judges a candidate, another times and finishes it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from executor_cases import faulty_setup, gather, job, mark
from faulty_task import calls_in
from run_factory import failed, measured, stopped

from autoprune.records import PENDING, CandidateRecord, RecordStore
from autoprune.search.executors.base import Job
from autoprune.search.executors.local import InProcessExecutor, LocalPool
from autoprune.search.executors.staged import StagedExecutor
from autoprune.search.rungs import RungPoint, Rungs
from autoprune.search.setup import Setup
from autoprune.search.workbench import PLAN_FILE, WEIGHTS_FILE, Workbench


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """A workbench that several tests use with different candidates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("gate")))
        yield Workbench(faulty_setup(tmp_path_factory.mktemp("run")))


def pending(setup: Setup) -> list[str]:
    folder = setup.directory / PENDING
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []


def finished(setup: Setup) -> list[str]:
    return [record.id for record in RecordStore(setup.directory).load_all()]


def as_json(record: CandidateRecord | None) -> object:
    return None if record is None else json.loads(json.dumps(record.to_json()))


def test_two_halves_make_the_record_of_the_whole(shared: Workbench, tmp_path: Path) -> None:
    first = shared.run(replace(job(0), stage="train"))
    assert first.is_unfinished
    assert pending(shared.setup) == [first.id]
    assert first.id not in finished(shared.setup)
    record = shared.run(replace(job(0), stage="measure"))
    assert pending(shared.setup) == []
    assert as_json(RecordStore(shared.setup.directory).load(record.id)) == as_json(record)
    RecordStore(shared.setup.directory).discard(record.id)
    whole = shared.run(job(0))
    assert record.values["accuracy"] == whole.values["accuracy"]
    for part in ("quality", "cost", "versus_dense"):
        assert as_json(record)["evaluation"][part] == as_json(whole)["evaluation"][part]
    target = shared.targets[0].name
    assert (record.evaluation or {})["latency"].keys() == (whole.evaluation or {})["latency"].keys() == {target}
    assert (record.state, record.seed, record.number) == ("complete", whole.seed, whole.number)


def test_times_of_both_halves_add_up_and_hosts_are_told_apart(
    shared: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprune.search.setup.platform.node", lambda: "trainer")
    first = shared.run(replace(job(1), stage="train"))
    monkeypatch.setattr("autoprune.search.workbench.platform.node", lambda: "edge")
    record = shared.run(replace(job(1), stage="measure"))
    assert (record.host, record.measured_on, record.device) == ("trainer", "edge", "cpu")
    assert record.seconds > first.seconds > 0.0
    assert record.cpu_seconds > first.cpu_seconds > 0.0
    seconds = (record.evaluation or {})["seconds"]
    assert {"prune", "deploy", "quality", "latency"} <= set(seconds)
    assert seconds["deploy"] > (first.evaluation or {})["seconds"]["deploy"]


def test_a_finalist_keeps_its_weights_through_both_halves(shared: Workbench) -> None:
    finalist = replace(job(2, steps=2), fidelity="full")
    shared.run(replace(finalist, stage="train"))
    store = RecordStore(shared.setup.directory, PENDING)
    before = [store.read_file(finalist.id, name) for name in (WEIGHTS_FILE, PLAN_FILE)]
    shared.run(replace(finalist, stage="measure"))
    kept = RecordStore(shared.setup.directory)
    assert [kept.read_file(finalist.id, name) for name in (WEIGHTS_FILE, PLAN_FILE)] == before


def test_a_candidate_that_ends_in_its_first_half_is_finished(shared: Workbench) -> None:
    mark(shared.setup, "recover", "fail", "once", steps=5)
    lost = shared.run(replace(job(3, steps=5), stage="train"))
    assert (lost.state, lost.is_unfinished) == ("failed", False)
    better = tuple(RungPoint(2, 0.0, 1.0) for _ in range(6))
    poor = shared.run(replace(job(4, steps=6), stage="train", rungs=Rungs((2,), 2, better)))
    assert poor.state == "stopped"
    assert {lost.id, poor.id} <= set(finished(shared.setup))
    assert pending(shared.setup) == []


def test_a_trained_candidate_is_not_trained_again_after_an_interruption(tmp_path: Path) -> None:
    setup = faulty_setup(tmp_path)
    first = Workbench(setup).run(replace(job(0), stage="train"))
    again = Workbench(setup).run(replace(job(0), number=7, stage="train"))
    assert as_json(again) == as_json(first)
    assert len(calls_in(tmp_path)) == 1
    assert Workbench(setup).run(replace(job(0), number=7, stage="measure")).number == 7
    assert len(calls_in(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_what_is_lost_between_the_halves_is_trained_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    bench = Workbench(faulty_setup(tmp_path))
    if damage == "altered":
        first = bench.run(replace(job(0), stage="train"))
        (tmp_path / PENDING / first.id / WEIGHTS_FILE).write_bytes(b"nonsense")
    with caplog.at_level(logging.WARNING, "autoprune"):
        record = bench.run(replace(job(0), stage="measure"))
    assert (record.state, record.device) == ("complete", "cpu")
    assert "trained again" in caplog.text
    assert finished(bench.setup) == [record.id]


@dataclass
class Half:
    """An engine that invents what becomes of its jobs, one at a time, the oldest first."""

    workers: int = 1
    outcome: object = None
    jobs: list[Job] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    closed: int = 0

    @property
    def free(self) -> int:
        return max(0, self.workers - len(self.jobs))

    def submit(self, job: Job) -> None:
        assert self.free, "it takes no more than it has room for"
        self.jobs.append(job)
        self.seen.append((job.id, job.stage))

    def collect(self) -> list[CandidateRecord]:
        return [self._outcome(self.jobs.pop(0))] if self.jobs else []

    def close(self) -> None:
        self.closed += 1

    def _outcome(self, one: Job) -> CandidateRecord:
        if callable(self.outcome):
            return self.outcome(one)
        whole = measured(one)
        return whole if one.stage != "train" else replace(whole, state="failed", values={})


@pytest.mark.parametrize(("trainers", "measurers"), [(1, 1), (3, 1), (1, 3), (4, 2)])
def test_each_job_goes_through_both_engines_once(trainers: int, measurers: int) -> None:
    train, measure = Half(trainers), Half(measurers)
    jobs = [job(n) for n in range(9)]
    records = gather(StagedExecutor(train, measure), jobs)
    assert sorted(r.id for r in records) == sorted(j.id for j in jobs)
    assert {r.state for r in records} == {"complete"}
    assert sorted(train.seen) == sorted((j.id, "train") for j in jobs)
    assert sorted(measure.seen) == sorted((j.id, "measure") for j in jobs)


def test_one_engine_may_do_both() -> None:
    both = Half(3)
    records = gather(StagedExecutor(both, both), [job(n) for n in range(7)])
    assert len(records) == 7
    assert len(both.seen) == 14
    executor = StagedExecutor(both, both)
    executor.close()
    assert both.closed == 1


@pytest.mark.parametrize("ending", [failed, lambda one: stopped(one, (3, 0.5))])
def test_what_ends_in_training_is_not_measured(ending: object) -> None:
    measure = Half()
    records = gather(StagedExecutor(Half(outcome=ending), measure), [job(0), job(1)])
    assert {r.state for r in records} <= {"failed", "stopped"}
    assert len(records) == 2
    assert measure.seen == []


def test_candidates_that_wait_to_be_measured_take_room() -> None:
    train, measure = Half(3), Half(1)
    executor = StagedExecutor(train, measure)
    for number in range(3):
        executor.submit(job(number))
    assert executor.free == 0
    assert len(executor.collect()) == 1
    assert executor.free + len(train.jobs) + len(measure.jobs) <= 4
    assert sum(len(executor.collect()) for _ in range(2)) == 2
    assert executor.free == 3
    assert executor.collect() == []


def test_closing_closes_both_engines_even_when_one_fails() -> None:
    class Stubborn(Half):
        def close(self) -> None:
            raise OSError("it does not close")

    measure = Half()
    with pytest.raises(OSError, match="does not close"):
        StagedExecutor(Stubborn(), measure).close()
    assert measure.closed == 1


def test_a_pool_trains_and_this_process_measures_also_when_a_trainer_dies(tmp_path: Path) -> None:
    setup = faulty_setup(tmp_path, workers=1)
    bench = Workbench(setup)
    mark(setup, "recover", "kill", "once", steps=2)
    mark(setup, "recover", "fail", "once", steps=3)
    jobs = [job(0), job(1), job(2)]
    with closing(StagedExecutor(LocalPool(setup, 1), InProcessExecutor(bench))) as executor:
        records = gather(executor, jobs)
    assert {r.number: r.state for r in records} == {0: "complete", 1: "failed", 2: "complete"}
    assert sorted(finished(setup)) == sorted(j.id for j in jobs)
    assert pending(setup) == []
    assert os.getsid(0) not in {call.session for call in calls_in(tmp_path)}
