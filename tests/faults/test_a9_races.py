"""A9: of two runs on one directory one goes on and the other is told who owns it; a dead owner owns nothing."""

from __future__ import annotations

import os
import re
import socket
import time
from pathlib import Path

import pytest
from checks import Watched
from stage import Stage

from autoprune.records import RunLock

LOCKED = 75
START = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"


def race(stage: Stage, folder: Path, pairs: int) -> int:
    """Let pairs of processes reach for a directory at the same moment, and return how many pairs had one winner."""
    winners = 0
    for number in range(pairs):
        run = folder / str(number)
        run.mkdir()
        pair = [stage.start("hold_lock", run=str(run), patience_s=0.3) for _ in range(2)]
        (run / "go").touch()
        limit = time.monotonic() + 60
        while not all(act.out.read_text().endswith("\n") for act in pair) and time.monotonic() < limit:
            time.sleep(0.005)
        lines = {act.pid: act.out.read_text() for act in pair}
        for act in pair:
            if act.out.read_text().startswith("won"):
                act.kill()
            act.wait()
        (winner,) = (pid for pid, line in lines.items() if line == "won\n")
        (told,) = (line for line in lines.values() if line.startswith("lost"))
        assert re.search(rf"in use by process {winner} on {re.escape(socket.gethostname())}, started {START}", told)
        winners += 1
        started = time.monotonic()
        with RunLock(run, patience_s=5.0):
            assert time.monotonic() - started < 5.0
    return winners


def test_each_of_10_racing_pairs_has_one_winner_whose_death_frees_the_directory(stage: Stage, ram: Path) -> None:
    assert race(stage, ram, 10) == 10


@pytest.mark.slow
def test_each_of_50_racing_pairs_has_one_winner_whose_death_frees_the_directory(stage: Stage, ram: Path) -> None:
    assert race(stage, ram, 50) == 50


def test_a_second_search_exits_75_naming_the_first_and_goes_on_once_that_is_dead(stage: Stage, ram: Path) -> None:
    run = Watched(stage, ram)
    assert run.call("event-added.candidate:3")[0] < 0
    owner = stage.start("hold_lock", run=str(run.directory), patience_s=1.0)
    (run.directory / "go").touch()
    while not owner.out.read_text():
        time.sleep(0.01)
    (run.directory / "go").unlink()
    status, said = run.call()
    assert status == LOCKED
    assert re.search(rf"process {owner.pid} on {re.escape(socket.gethostname())}, started {START}", said)
    os.kill(owner.pid, 9)
    owner.wait()
    run.finish()
