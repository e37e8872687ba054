"""A4: a full disk is one line with path and free bytes and exit 74; once there is space, the same command goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checks import Watched, differences, essence
from stage import Stage

from autoprune.search.directory import EventLog, read_events

TESTS = Path(__file__).resolve().parent.parent
STORAGE_ERROR = 74
RECORDS = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from record_factory import numbered
from autoprune.errors import StorageError
from autoprune.records import RecordStore
run = Path(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
written, messages = [], []
for number in range(100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (number * 50, hard))
    try:
        RecordStore(run).write(numbered(number), {"extra.bin": bytes(3000)})
        written.append(number)
    except StorageError as error:
        messages.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
RecordStore(run).write(numbered(1000))
loaded = [r.number for r in RecordStore(run).load_all()]
print(json.dumps([written, messages, loaded, len(list((run / "candidates").iterdir()))]))
"""


def test_at_each_of_100_limits_a_record_is_whole_or_absent(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", RECORDS, str(tmp_path), str(TESTS)], stdout=subprocess.PIPE, check=True, text=True
    )
    written, messages, loaded, entries = json.loads(out.stdout)
    assert len(messages) >= 50
    assert written
    assert loaded == [*written, 1000]
    assert entries == len(loaded)
    assert all("candidates/" in m and "bytes free" in m and "File too large" in m for m in messages)


@dataclass
class Disk:
    """A folder that can be filled up.

    Args:
        folder: On a file system of its own where this user may mount one; else each file of an act is limited.
        mounted: Whether it is.
    """

    folder: Path
    mounted: bool

    def limit(self, size: int) -> dict[str, Any]:
        """Limit the disk to so many bytes, and return what an act has to be told."""
        if not self.mounted:
            return {"file_limit": size}
        options = f"remount,size={max(size, 4096)}"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True)
        return {}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    yield Disk(folder, mounted)
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_up(stage: Stage, disk: Disk, undisturbed: Watched, limits: int) -> int:
    """Let a run meet rising limits until it ends, and return how often the disk was full."""
    files = [p.stat().st_size for p in undisturbed.directory.rglob("*") if p.is_file()]
    most = sum(4096 * (size // 4096 + 2) for size in files) if disk.mounted else max(files)
    run = Watched(stage, disk.folder)
    run.journal = disk.folder.with_name("journal")
    full = 0
    for step in range(limits):
        status, said = run.call(**disk.limit(most * step // limits))
        assert status in (0, STORAGE_ERROR), said
        if status == STORAGE_ERROR:
            full += 1
            (line,) = (line for line in said.splitlines() if line.startswith("error: "))
            assert re.search(rf"{re.escape(str(disk.folder))}/\S+: .+ \(\d+ bytes free\)", line), line
    disk.limit(64 << 20)
    assert differences(run.finish(), essence(undisturbed.directory)) == []
    return full


def test_a_run_that_meets_6_limits_ends_as_if_undisturbed(stage: Stage, disk: Disk, undisturbed: Watched) -> None:
    assert fill_up(stage, disk, undisturbed, 6) >= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_meets_100_limits_ends_as_if_undisturbed(stage: Stage, disk: Disk, undisturbed: Watched) -> None:
    assert fill_up(stage, disk, undisturbed, 100) >= 50


def test_an_event_after_a_line_that_was_cut_off_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).add("test_read", id="a")
    path.write_bytes(path.read_bytes() + b'{"session": "x", "elap')
    log = EventLog(path)
    log.add("test_read", id="b")
    assert log.count("test_read") == 2
    assert [e["id"] for e in read_events(path)] == ["a", "b"]
