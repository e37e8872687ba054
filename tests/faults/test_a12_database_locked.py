"""A12: while another process has `study.db` locked the search goes on and the index catches up.

When the front is written and the file is locked still, the run tries again with growing waits for 60 s and then exits
75: nothing but the index is behind, and the same command mends it at once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from checks import Watched
from stage import Stage

from autoprune.records import RecordStore

LOCKED = 75


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a database, from the moment it holds a study."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)) as database:
                if database.execute("SELECT COUNT(*) FROM study_directions").fetchone() == (2,):
                    database.execute("BEGIN EXCLUSIVE")
                    yield
                    return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.002)
    raise TimeoutError(path)


def trials(path: Path, name: str) -> list[str]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = [t.user_attrs["candidate_id"] for t in optuna.load_study(study_name=name, storage=storage).trials]
    storage.remove_session()
    storage.engine.dispose()
    return found


def shorts(run: Path) -> list[str]:
    return [r.id for r in RecordStore(run).load_all() if r.fidelity == "short"]


def test_a_lock_of_5_s_neither_stops_nor_slows_the_search_and_the_index_catches_up(stage: Stage, ram: Path) -> None:
    run, journal = ram / "run", ram / "journal"
    settings = {"run": str(run), "journal": str(journal), "evaluations": 60, "sampler": "random"}
    act = stage.start("five_ms", **settings)
    with locked(run / "study.db"):
        begun = time.monotonic()
        while time.monotonic() < begun + 5.0 or journal.read_text().count("ended") < 60:
            time.sleep(0.05)
            assert time.monotonic() < begun + 60.0
    assert act.wait() == 0, act.err.read_text()
    assert trials(run / "study.db", "five_ms") == shorts(run)
    assert len(shorts(run)) == 60


def hold_through(stage: Stage, folder: Path, patience_s: float, held_s: float) -> list[str]:
    """Hold the lock through a whole search and beyond its patience; return what the same command then has indexed."""
    run = Watched(stage, folder, ("search.budget.evaluations=6",))
    act = run.start(patience_s=patience_s)
    with locked(run.directory / "study.db"):
        begun = time.monotonic()
        status = act.wait(held_s + 120.0)
        time.sleep(max(0.0, begun + held_s - time.monotonic()))
    said = act.err.read_text()
    assert status == LOCKED, said
    assert f"study.db stayed locked by another process for {patience_s:g} s" in said
    assert "of 6 trials; the records are complete" in said
    assert (run.directory / "front.json").is_file()
    assert len(shorts(run.directory)) == 6
    assert trials(run.directory / "study.db", "tiny") != shorts(run.directory)
    before = run.begun()
    front = (run.directory / "front.json").read_bytes()
    run.finish()
    assert run.begun() == before
    assert (run.directory / "front.json").read_bytes() == front
    indexed = trials(run.directory / "study.db", "tiny")
    assert indexed == shorts(run.directory)
    return indexed


def test_a_lock_held_to_the_end_is_exit_75_behind_a_whole_front(stage: Stage, ram: Path) -> None:
    assert len(hold_through(stage, ram, 1.0, 0.0)) == 6


@pytest.mark.slow
def test_a_lock_of_120_s_is_exit_75_after_60_s_behind_a_whole_front(stage: Stage, ram: Path) -> None:
    assert len(hold_through(stage, ram, 60.0, 120.0)) == 6
