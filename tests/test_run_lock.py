"""One process a run directory: the second is told who owns it, and a dead owner owns nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprune.errors import RunLockedError
from autoprune.records import RunLock, read_owner


def test_a_lock_given_back_names_nobody_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path / "run"):
            assert read_owner(tmp_path / "run")
        assert read_owner(tmp_path / "run") is None


def test_one_process_cannot_own_a_directory_twice(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(RunLockedError) as caught, RunLock(tmp_path, patience_s=0):
            pass
        assert caught.value.exit_code == 75
        with pytest.raises(RunLockedError), RunLock(tmp_path, patience_s=0):
            pass


def test_a_forked_child_does_not_keep_its_dead_parents_lock(tmp_path: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from autoprune.records import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.__enter__()
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    try:
        time.sleep(0.1)
        parent.kill()
        parent.wait()
        with RunLock(tmp_path, patience_s=2):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.communicate()


def test_an_owner_file_that_cannot_be_read_does_not_hide_the_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / "run.lock").write_bytes(b"\xff{")
        with pytest.raises(RunLockedError, match="another process"), RunLock(tmp_path, patience_s=0):
            pass
