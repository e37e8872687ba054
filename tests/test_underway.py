"""What was under way when a driver was killed comes first in the next call, once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
from run_factory import Invented, StandIn, context, failed, measured, phase_of

from autoprune.errors import StorageError
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Job
from autoprune.search.loop import Searcher, run_loop
from autoprune.search.underway import UNDERWAY, Underway


def killed_after(folder: Path, count: int, *, workers: int) -> tuple[list[CandidateRecord], list[Job]]:
    """Return the records of a call that is killed behind its `count`th, and what was under way."""
    executor = Invented(workers=workers)
    loop = run_loop(Searcher(phase_of(StandIn()), ()), executor, lambda: None, 8, Underway(folder))
    records = list(islice(loop, count))
    return records, sorted(executor.jobs, key=lambda job: job.number)


def resumed(folder: Path, records: Sequence[CandidateRecord], *, workers: int) -> tuple[Searcher, Underway]:
    underway = Underway(folder)
    again = underway.left("short", {r.id for r in records})
    return Searcher(phase_of(StandIn()), records, first=1 + max(r.number for r in records), again=again), underway


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_under_way_comes_first_as_it_was(tmp_path: Path, workers: int) -> None:
    records, lost = killed_after(tmp_path, 4, workers=workers)
    assert len(lost) == workers - 1
    searcher, underway = resumed(tmp_path, records, workers=workers)
    executor = Invented(workers=workers)
    after = list(run_loop(searcher, executor, lambda: None, 4, underway))
    assert len(after) == 4
    redone = [job for job in executor.done if job.id in {j.id for j in lost}]
    assert sorted(redone, key=lambda job: job.number) == lost
    numbers = [r.number for r in (*records, *after)]
    assert len(set(numbers)) == len(numbers) == 8
    assert len({r.digest for r in (*records, *after)}) == 8
    assert not list((tmp_path / UNDERWAY).iterdir())


def test_its_record_is_learnt_from_like_any_other(tmp_path: Path) -> None:
    records, lost = killed_after(tmp_path, 2, workers=2)
    sampler = StandIn()
    searcher = Searcher(phase_of(sampler), records, again=Underway(tmp_path).left("short", {r.id for r in records}))

    def outcome(job: Job) -> CandidateRecord:
        return failed(job) if job == lost[0] else measured(job)

    list(run_loop(searcher, Invented(outcome=outcome), lambda: None, 3))
    assert sorted(t.user_attrs["digest"] for t in sampler.seen[-1][:3]) == sorted(
        [*(r.digest for r in records), lost[0].policy.digest]
    )


def test_a_candidate_that_was_left_twice_is_left_out(tmp_path: Path) -> None:
    records, lost = killed_after(tmp_path, 2, workers=2)
    searcher, underway = resumed(tmp_path, records, workers=2)
    job = searcher.propose()
    assert job == lost[0]
    underway.add(job)
    assert Underway(tmp_path).left("short", {r.id for r in records}) == []
    assert not list((tmp_path / UNDERWAY).iterdir())


def test_what_has_a_record_or_cannot_be_read_is_forgotten_and_other_fidelities_are_kept(tmp_path: Path) -> None:
    records, lost = killed_after(tmp_path, 2, workers=3)
    folder = tmp_path / UNDERWAY
    (folder / "torn.json").write_bytes(b'{"number": 1, "pol')
    (folder / "list.json").write_bytes(b"[]")
    assert Underway(tmp_path).left("proxy", {lost[0].id, *(r.id for r in records)}) == []
    assert [path.stem for path in folder.iterdir()] == [lost[1].id]


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / UNDERWAY).touch()
    searcher = Searcher(phase_of(StandIn(), context=context(evaluations=2)), ())
    with pytest.raises(StorageError, match=UNDERWAY):
        next(run_loop(searcher, Invented(), lambda: None, 2, Underway(tmp_path)))
