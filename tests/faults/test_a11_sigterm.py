"""A11: SIGTERM, as Kubernetes and SLURM send it, ends a search in order within 20 s, with nothing left under way."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from interrupted import Search
from stage import Stage

from autoprune.report.document import read_front

WITHIN_S = 20.0
TIMES = 10


@pytest.mark.parametrize("linger", ["short", "full"])
def test_sigterm_ends_a_search_in_order(stage: Stage, tmp_path: Path, linger: str) -> None:
    search = Search(stage, tmp_path, linger)
    act = search.start()
    before = {r.id: r.created for r in search.records()}
    status, seconds, said = search.stop(act, signal.SIGTERM)
    assert status == 143, said
    assert seconds < WITHIN_S
    assert "Run the same command again to go on" in said
    assert "partial report" in said
    assert "Traceback" not in said
    search.assert_left_in_order()
    assert {r.id: r.created for r in search.records()} == before


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["ray", "tune"])
def test_a_search_on_a_cluster_ends_in_order_too(stage: Stage, tmp_path: Path, kind: str, sent: signal.Signals) -> None:
    search = Search(stage, tmp_path, "short", 2, kind)
    status, seconds, said = search.stop(search.start(), sent)
    assert status == 128 + sent, said
    assert seconds < WITHIN_S
    assert "partial report" in said
    assert len(search.family) > 1 + 2
    search.assert_left_in_order()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ten_sigterms_at_random_moments_leave_nothing_under_way(stage: Stage, tmp_path: Path, workers: int) -> None:
    moments = random.Random(workers)
    search = Search(stage, tmp_path, workers=workers)
    ended = before = 0
    for _ in range(TIMES):
        act = search.start()
        limit = time.monotonic() + moments.uniform(0.05, 3.0 * workers)
        while time.monotonic() < limit and psutil.Process(act.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        if psutil.Process(act.pid).status() == psutil.STATUS_ZOMBIE:
            ended += act.wait() == 0
            (search.directory / "front.json").unlink()
            continue
        status, seconds, said = search.stop(act, signal.SIGTERM)
        assert status == 143, said
        assert seconds < WITHIN_S
        search.assert_left_in_order()
        assert len(search.records()) >= before
        before = len(search.records())
    assert ended < TIMES
    assert search.start().wait() == 0
    assert read_front(search.directory).members
