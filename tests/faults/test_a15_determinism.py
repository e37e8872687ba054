"""A15: one seed, one worker and replayed latency give one list of candidates and one front, however often killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checks import Watched, differences
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
def reference(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a run gives that nothing happened to."""
    found = Watched(stage, tmp_path_factory.mktemp("reference"), WHOLE).finish()
    assert len(found["records"]) > CANDIDATES
    assert found["front"]["members"]
    return found


def test_the_same_seed_gives_the_same_candidates_and_front(stage: Stage, reference: dict[str, Any], ram: Path) -> None:
    assert differences(Watched(stage, ram, WHOLE).finish(), reference) == []


def test_a_run_killed_three_times_ends_the_same(stage: Stage, reference: dict[str, Any], ram: Path) -> None:
    run = Watched(stage, ram, WHOLE)
    for candidates in (5, 6, 8):
        assert run.call(f"directory-durable.candidates:{candidates}")[0] == SIGKILLED
    assert differences(run.finish(), reference) == []


@pytest.mark.slow
@pytest.mark.parametrize("candidate", range(1, CANDIDATES + 1))
def test_a_run_killed_behind_any_candidate_ends_the_same(
    stage: Stage, reference: dict[str, Any], ram: Path, candidate: int
) -> None:
    """Its record is on disk, and the driver has told nobody of it."""
    run = Watched(stage, ram, WHOLE)
    assert run.call(f"directory-durable.candidates:{candidate + 1}")[0] == SIGKILLED  # the first is the dense model
    assert differences(run.finish(), reference) == []


@pytest.mark.slow
def test_another_seed_gives_other_models(stage: Stage, reference: dict[str, Any], ram: Path) -> None:
    assert Watched(stage, ram, (*WHOLE, "search.seed=1")).finish()["weights"] != reference["weights"]
