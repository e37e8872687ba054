"""What the fault tests share: one warm process to fork from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from checks import Watched
from stage import Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return where acts are played."""
    with Stage(tmp_path_factory.mktemp("stage")) as opened:
        yield opened


@pytest.fixture(scope="session")
def undisturbed(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Return a small run that nothing happened to."""
    run = Watched(stage, tmp_path_factory.mktemp("undisturbed"))
    run.finish()
    return run


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory, where the system has such: what is killed need not wait for a disk."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="autoprune-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
