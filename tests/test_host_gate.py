from __future__ import annotations

import multiprocessing as mp
import os
import signal
import time
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from autoprune.errors import OutputError
from autoprune.evaluation import HostGate

SPAWN = mp.get_context("spawn")
SECONDS = 2.5


def sections(directory: Path, kind: str, hold: float, ready: Barrier, log: Path) -> None:
    """Enter the gate again and again, logging begin and end of each section."""
    gate = HostGate(directory)
    ready.wait(120)
    until = time.monotonic() + SECONDS
    with log.open("a") as out:
        while time.monotonic() < until:
            with gate.shared() if kind == "shared" else gate.exclusive():
                start = time.monotonic()
                time.sleep(hold)
                out.write(f"{kind} {start} {time.monotonic()}\n")
            time.sleep(0.001)


def hold_for_ever(directory: Path, kind: str, ready: Event) -> None:
    gate = HostGate(directory)
    with gate.shared() if kind == "shared" else gate.exclusive():
        ready.set()
        time.sleep(600)


def read(log: Path) -> list[tuple[str, float, float]]:
    rows = [line.split() for line in log.read_text().splitlines()]
    return [(kind, float(start), float(end)) for kind, start, end in rows]


def test_a_measurement_overlaps_with_nothing_and_nobody_starves(tmp_path: Path) -> None:
    logs = [tmp_path / f"log{i}" for i in range(3)]
    kinds = [("shared", 0.02), ("shared", 0.02), ("exclusive", 0.01)]
    ready = SPAWN.Barrier(len(kinds))
    workers = [
        SPAWN.Process(target=sections, args=(tmp_path / "gate", kind, hold, ready, log))
        for (kind, hold), log in zip(kinds, logs, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(150)
        assert worker.exitcode == 0

    rows = [row for log in logs for row in read(log)]
    measured = [row for row in rows if row[0] == "exclusive"]
    overlaps = [(a, b) for a in measured for b in rows if a is not b and a[1] < b[2] and b[1] < a[2]]
    assert overlaps == []
    assert all(len(read(log)) >= 3 for log in logs)


def test_sharers_hold_the_gate_together(tmp_path: Path) -> None:
    first, second = HostGate(tmp_path), HostGate(tmp_path)
    held = 0
    with first.shared(), second.shared():
        held = 2
    assert held == 2


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_killed_holder_frees_the_gate(tmp_path: Path, kind: str) -> None:
    ready = SPAWN.Event()
    holder = SPAWN.Process(target=hold_for_ever, args=(tmp_path, kind, ready))
    holder.start()
    assert ready.wait(60)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    start = time.monotonic()
    with HostGate(tmp_path).exclusive():
        waited = time.monotonic() - start
    holder.join(10)
    assert waited < 2.0


def test_a_failing_section_frees_the_gate(tmp_path: Path) -> None:
    gate = HostGate(tmp_path)
    with pytest.raises(ValueError, match="inside"), gate.exclusive():
        raise ValueError("inside")
    with gate.exclusive():
        pass


def test_a_file_in_place_of_the_directory_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "gate").write_text("")
    with pytest.raises(OutputError, match="gate"):
        HostGate(tmp_path / "gate")


def test_a_link_in_place_of_a_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "gate").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="cannot open"), HostGate(tmp_path).shared():
        pass
    assert not (tmp_path / "elsewhere").exists()
