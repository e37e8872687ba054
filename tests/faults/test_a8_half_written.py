"""A8: what is half written is invisible; A1 looks for it at each of its kills as well."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from checks import Watched, assert_whole
from stage import SIGKILLED, Stage

from autoprune.errors import StorageError
from autoprune.records import RecordStore


def test_after_sigkill_every_acknowledged_record_is_there_and_none_is_half(stage: Stage, tmp_path: Path) -> None:
    rng = random.Random(1)
    store = RecordStore(tmp_path)
    acknowledged: set[str] = set()
    for kill in range(20):
        writer = stage.start("write_records", run=str(tmp_path), first=1000 * kill)
        while not writer.out.read_text():
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        writer.kill()
        writer.wait()
        acknowledged.update(writer.out.read_text().split("\n")[1:-1])
        assert acknowledged <= {r.id for r in store.load_all()}
        assert not (store.directory / ".quarantine").exists()
        assert not list(store.directory.glob(".tmp-*"))
    assert acknowledged


def test_a_killed_emission_leaves_temporaries_that_nobody_sees_and_the_next_call_removes(
    stage: Stage, ram: Path
) -> None:
    run = Watched(stage, ram)
    assert run.call("directory-file.metrics.json")[0] == SIGKILLED
    (hidden,) = (run.directory / "front").iterdir()
    assert hidden.name.startswith(".tmp-")
    assert (hidden / "metrics.json").is_file()
    run.finish()
    assert not list(run.directory.rglob(".tmp-*"))


def test_a_visible_half_would_be_noticed(stage: Stage, ram: Path) -> None:
    run = Watched(stage, ram)
    run.finish()
    for name in ("report.html", "front.json", min((run.directory / "front").glob("*/metrics.json"))):
        path = run.directory / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises((AssertionError, StorageError)):
            assert_whole(run.directory)
        path.write_bytes(whole)
    assert_whole(run.directory)
