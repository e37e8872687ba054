"""A1b: killed exactly at any of the named points, a run goes on with nothing lost, nothing twice, nothing half."""

from __future__ import annotations

import os
import subprocess
import sys
import timeit
from pathlib import Path
from typing import Any

import pytest
from checks import Watched, differences
from stage import SIGKILLED, Stage

from autoprune.storage.faults import VARIABLE, fault_point

POINTS = {
    "lock-taken": 1,
    "lock-signed": 1,
    "file-written.config.yaml": 1,
    "file-renamed.config.yaml": 1,
    "file-renamed.environment.json": 1,
    "event-added.started": 1,
    "directory-made.candidates": 1,
    "directory-file.record.json": 2,
    "directory-filled.candidates": 2,
    "directory-written.candidates": 2,
    "directory-renamed.candidates": 2,
    "directory-durable.candidates": 2,
    "event-added.candidate": 2,
    "trial-made": 1,
    "event-added.phase_ended": 1,
    "event-added.finalists": 1,
    "directory-file.plan.json": 1,
    "finalists-measured": 1,
    "event-added.test_read": 2,
    "directory-file.metrics.json": 1,
    "directory-filled.front": 1,
    "directory-written.front": 1,
    "directory-renamed.front": 1,
    "member-emitted": 1,
    "file-written.pictures.json": 1,
    "file-written.front.csv": 1,
    "file-written.front.json": 1,
    "file-renamed.front.json": 1,
    "file-written.report.html": 1,
    "front-written": 1,
    "directory-aside.front": 1,
    "event-added.finished": 1,
}
"""Place -> how many times a run passes it before it is killed there."""

SMALL = ("search.budget.evaluations=2", "search.budget.proxy_evaluations=2")
FIRST = {"directory-aside.front": "front-written"}
"""Point that is only passed by a call that goes on behind another point."""


WRITE = (
    "import sys; from pathlib import Path; from autoprune.storage import write_file; write_file(Path(sys.argv[1]), b'')"
)


def test_a_fault_point_kills_the_process_whose_environment_names_it_and_costs_others_nothing(tmp_path: Path) -> None:
    for name, status in (("file-written.other", 0), ("file-written.mine:2", 0), ("file-written.mine", SIGKILLED)):
        command = [sys.executable, "-c", WRITE, str(tmp_path / "mine")]
        assert subprocess.run(command, check=False, env={**os.environ, VARIABLE: name}).returncode == status
    assert min(timeit.repeat(lambda: fault_point("file-written", "mine"), number=10_000, repeat=5)) < 10_000 * 1e-6


@pytest.fixture(scope="module")
def reference(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the same run gives undisturbed."""
    return Watched(stage, tmp_path_factory.mktemp("reference"), SMALL).finish()


def test_killed_at_one_point_after_another_a_run_ends_as_if_undisturbed(
    stage: Stage, ram: Path, reference: dict[str, Any]
) -> None:
    run = Watched(stage, ram, SMALL)
    for point in POINTS:
        status, said = run.call(point)
        assert status == SIGKILLED, f"{point}: {said}"
    assert differences(run.finish(), reference) == []


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_a_run_goes_on_as_if_undisturbed(
    stage: Stage, ram: Path, reference: dict[str, Any], point: str
) -> None:
    run = Watched(stage, ram, SMALL)
    for spec in [FIRST[point], point] if point in FIRST else [point]:
        status, said = run.call(f"{spec}:{POINTS[spec]}")
        assert status == SIGKILLED, f"{spec}: {said}"
    assert differences(run.finish(), reference) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", [point for point in POINTS if point not in FIRST])
def test_killed_at_a_point_a_run_on_ray_goes_on(stage: Stage, ram: Path, point: str) -> None:
    """The driver passes each point at least once, since it writes the dense model's record itself.

    But those of a second call: latencies are measured anew there, after which the models' directories are named.
    """
    run = Watched(stage, ram, (*SMALL, "executor.kind=ray"), {"replayed": False})
    status, said = run.call(point)
    assert status == SIGKILLED, said
    run.end()
