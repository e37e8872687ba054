"""A1, A8, A15: the driver killed at any moment; the same command goes on, loses and repeats nothing, shows no half.

The short form kills a few times, the slow one 200 times with candidates of 5 ms and 20 times with a real network.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from checks import Watched, assert_whole, differences, essence, finished_records
from stage import SIGKILLED, Stage

from autoprune.records import RecordStore
from autoprune.records.store import QUARANTINE


class Driver:
    """The real loop, sampler, records and index over candidates of 5 ms, killed again and again."""

    def __init__(self, stage: Stage, folder: Path, **settings: Any) -> None:
        self.stage = stage
        self.run, self.log = folder / "run", folder / "journal"
        self.settings = {"evaluations": 24, **settings}
        self.kills = 0

    def journal(self) -> tuple[Counter[str], Counter[str]]:
        """Return how often each candidate was begun, and how often it was acknowledged as written."""
        lines = [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return tuple(Counter(name for what, name in lines if what == kind) for kind in ("begun", "ended"))

    def call(self, kill_after_s: float | None = None) -> int:
        """Call once, and hold what is on disk against what was acknowledged."""
        finished, (before, _) = finished_records(self.run), self.journal()
        act = self.stage.start("five_ms", run=str(self.run), journal=str(self.log), **self.settings)
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            act.kill()
        status = act.wait()
        assert status in (0, SIGKILLED), act.err.read_text()
        self.kills += status == SIGKILLED
        after, (begun, ended) = finished_records(self.run), self.journal()
        assert {name: after.get(name) for name in finished} == finished
        assert set(ended) <= set(after)
        assert all(begun[name] == before[name] for name in finished)
        assert all(times - before[name] <= 1 for name, times in begun.items())
        assert max(ended.values(), default=1) == 1
        assert_whole(self.run)
        assert not (self.run / "candidates" / QUARANTINE).exists()
        return status

    def candidates(self) -> list[tuple[int, str]]:
        """Finish, and return number and digest of the candidates in order."""
        assert self.call() == 0
        begun, _ = self.journal()
        records = RecordStore(self.run).load_all()
        assert set(begun) == {r.id for r in records}
        assert len({r.digest for r in records}) == len(records) == self.settings["evaluations"]
        return [(r.number, r.digest) for r in records]


def kill_often(stage: Stage, folder: Path, kills: int, seed: int, *, evaluations: int = 24) -> int:
    """Kill runs of every kind at random moments until `kills` of them have hit; return their number."""
    rng, done, runs = random.Random(seed), 0, 0
    kinds = [("autoprune", 1), ("random", 1), ("autoprune", 3)]
    undisturbed: dict[str, tuple[list[tuple[int, str]], float]] = {}
    while done < kills:
        sampler, workers = kinds[runs % len(kinds)]
        if sampler not in undisturbed:
            (folder / sampler).mkdir()
            started = time.monotonic()
            found = Driver(stage, folder / sampler, sampler=sampler, evaluations=evaluations).candidates()
            undisturbed[sampler] = found, time.monotonic() - started
        expected, seconds = undisturbed[sampler]
        (folder / str(runs)).mkdir()
        settings = {"sampler": sampler, "workers": workers, "evaluations": evaluations}
        driver = Driver(stage, folder / str(runs), **settings)
        while done + driver.kills < kills and driver.call(rng.uniform(0.0, 0.6 * seconds)) == SIGKILLED:
            pass
        found = driver.candidates()
        assert workers > 1 or found == expected
        done += driver.kills
        runs += 1
    return done


def test_killed_15_times_a_run_of_quick_candidates_loses_and_repeats_none(stage: Stage, ram: Path) -> None:
    assert kill_often(stage, ram, 15, seed=0, evaluations=14) == 15


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_200_times_a_run_of_quick_candidates_loses_and_repeats_none(stage: Stage, ram: Path) -> None:
    assert kill_often(stage, ram, 200, seed=1) == 200


def kill_end_to_end(stage: Stage, folder: Path, kills: int, expected: dict[str, Any], **settings: Any) -> int:
    """Kill `autoprune search` of a real network at random moments; every end is that of the undisturbed run."""
    rng, done, runs = random.Random(kills), 0, 0
    while done < kills:
        (folder / str(runs)).mkdir()
        run = Watched(stage, folder / str(runs), settings=settings)
        while done < kills and run.call(kill_after_s=rng.uniform(0.0, 4.0 if settings else 1.5))[0] == SIGKILLED:
            done += 1
        assert differences(run.finish(), expected) == []
        runs += 1
    return done


def test_killed_3_times_a_search_ends_with_the_front_of_the_undisturbed_one(
    stage: Stage, undisturbed: Watched, ram: Path
) -> None:
    assert kill_end_to_end(stage, ram, 3, essence(undisturbed.directory)) == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_20_times_a_search_ends_with_the_front_of_the_undisturbed_one(stage: Stage, ram: Path) -> None:
    (ram / "undisturbed").mkdir()
    expected = Watched(stage, ram / "undisturbed", settings={"exports": True}).finish()
    assert kill_end_to_end(stage, ram, 20, expected, exports=True) == 20
