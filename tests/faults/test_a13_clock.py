"""A13: the wall clock may jump by a day at any moment: the same candidates and front, and durations stay true."""

from __future__ import annotations

import json
from pathlib import Path

from checks import Watched, differences, essence
from stage import SIGKILLED, Stage

from autoprune.records import RecordStore
from autoprune.search.directory import EVENTS_FILE, read_events

LONGEST_S = 600.0


def assert_true_durations(run: Path) -> None:
    elapsed: dict[str, float] = {}
    for event in read_events(run / EVENTS_FILE):
        assert 0.0 <= elapsed.get(event["session"], 0.0) <= event["elapsed_s"] < LONGEST_S
        elapsed[event["session"]] = event["elapsed_s"]
    for record in RecordStore(run).load_all():
        assert 0.0 < record.seconds < LONGEST_S
    front = json.loads((run / "front.json").read_bytes())
    assert 0.0 < front["wall_seconds"] < LONGEST_S


def test_a_clock_that_jumps_by_a_day_all_the_time_changes_nothing(
    stage: Stage, undisturbed: Watched, ram: Path
) -> None:
    run = Watched(stage, ram, settings={"jumping": True})
    assert run.call("event-added.candidate:4")[0] == SIGKILLED
    assert differences(run.finish(), essence(undisturbed.directory)) == []
    assert_true_durations(run.directory)
    assert_true_durations(undisturbed.directory)
    days = {r.created[:10] for r in RecordStore(run.directory).load_all()}
    assert len(days) >= 2
