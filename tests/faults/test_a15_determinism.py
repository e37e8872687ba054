"""A15: one seed, one worker and replayed latency give one list of candidates and one front, however often killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from checks import Watched, differences, essence
from stage import SIGKILLED, Stage

CANDIDATES = 20
WHOLE = (
    "search.budget.evaluations=8",
    "search.budget.proxy_evaluations=6",
    "search.controls=1",
    "recovery.seeds=2",
)
"""Six untrained, eight briefly trained, controls, two finalists with two seeds."""


@pytest.fixture(scope="module")
def undisturbed(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    run = Watched(stage, tmp_path_factory.mktemp("undisturbed"), WHOLE)
    run.finish()
    return run


def test_the_same_seed_gives_the_same_candidates_and_front_and_another_gives_others(
    stage: Stage, undisturbed: Watched, ram: Path
) -> None:
    found = {}
    for name, seed in (("same", 0), ("other", 1)):
        (ram / name).mkdir()
        found[name] = Watched(stage, ram / name, (*WHOLE, f"search.seed={seed}")).finish()
    expected = essence(undisturbed.directory)
    assert len(expected["records"]) >= CANDIDATES
    assert expected["front"]["members"]
    assert differences(found["same"], expected) == []
    assert found["other"]["weights"] != expected["weights"]


def assert_ends_the_same(stage: Stage, undisturbed: Watched, folder: Path, candidate: int) -> None:
    """Kill a run behind a candidate's record, before the driver has told anybody of it; its end is the same."""
    run = Watched(stage, folder, WHOLE)
    assert run.call(f"directory-durable.candidates:{candidate + 1}")[0] == SIGKILLED  # the first is the dense model
    assert differences(run.finish(), essence(undisturbed.directory)) == []


@pytest.mark.parametrize("candidate", [5, 11, 19])
def test_a_run_killed_behind_some_candidates_ends_the_same(
    stage: Stage, undisturbed: Watched, ram: Path, candidate: int
) -> None:
    assert_ends_the_same(stage, undisturbed, ram, candidate)


@pytest.mark.slow
@pytest.mark.parametrize("candidate", range(1, CANDIDATES + 1))
def test_a_run_killed_behind_any_candidate_ends_the_same(
    stage: Stage, undisturbed: Watched, ram: Path, candidate: int
) -> None:
    assert_ends_the_same(stage, undisturbed, ram, candidate)
