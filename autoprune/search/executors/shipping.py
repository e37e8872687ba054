"""Files that a run needs on its workers: those beside the task travel, and each worker settles on what it uses.

Where a worker sees the driver's own files, by a shared file system, these are used; where it does not, the copies that
came with the connection. Files that are seen but differ from the driver's are refused.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from autoprune.errors import ConfigError, TaskError
from autoprune.search.setup import Setup
from autoprune.storage import write_file
from autoprune.tasks.reference import TaskRef

PACKAGE = "autoprune_shipped"
SPACE_FILE = "space.yaml"
MARK_FILE = ".shared"
MARK_SECONDS = 5.0
SPACE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Parcel:
    """What a worker on any node gets.

    Args:
        setup: The run, with absolute paths.
        task_sha256: Digest of the driver's task file; empty where the task is a module.
        mark: Content of a file in the run's directory, the driver's own, by which a worker knows that it sees the same.
        here: The driver's working directory.
        versions: autoprune's and Python's, as the driver has them.
    """

    setup: Setup
    task_sha256: str
    mark: str
    here: Path
    versions: tuple[str, str]


def wrap(setup: Setup) -> Parcel:
    """Return a run's parcel, and mark its directory."""
    base = (setup.task.base or Path()).resolve()
    absolute = replace(
        setup,
        task=replace(setup.task, base=base),
        base=setup.base.resolve(),
        directory=setup.directory.resolve(),
    )
    mark = f"{platform.node()} {os.getpid()} {psutil.Process().create_time()}"
    absolute.directory.mkdir(parents=True, exist_ok=True)
    write_file(absolute.directory / MARK_FILE, mark.encode())
    return Parcel(absolute, setup.task.sha256, mark, Path.cwd(), _versions())


def with_reserved_threads(setup: Setup) -> Setup:
    """Return a setup whose workers train with the cores that they reserve, unless it says with how many."""
    executor = setup.config.executor
    threads = executor.threads or max(1, int(executor.cpus_per_worker))
    config = setup.config.model_copy(update={"executor": executor.model_copy(update={"threads": threads})})
    return replace(setup, config=config)


def unmark(parcel: Parcel) -> None:
    """Take the mark away."""
    (parcel.setup.directory / MARK_FILE).unlink(missing_ok=True)


def pack(setup: Setup, folder: Path) -> Path | None:
    """Copy what travels, sources beside the task and the search space, into a package; None when nothing has to.

    Args:
        setup: The run.
        folder: Where the package is made.
    """
    file, space = setup.task.file, setup.base / setup.config.space
    if file is None and space.suffix not in SPACE_SUFFIXES:
        return None
    package = folder / PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    for source in sorted(file.parent.glob("*.py")) if file is not None else []:
        if source.is_file():
            shutil.copyfile(source, package / source.name)
    if space.suffix in SPACE_SUFFIXES and space.is_file():
        shutil.copyfile(space, package / SPACE_FILE)
    return package


def unpack(parcel: Parcel) -> Setup:
    """Return the setup by which a worker on this node builds its workbench.

    Raises:
        ConfigError: autoprune or Python differ, or the run's directory is not shared.
        TaskError: The task file differs from the driver's, or is nowhere.
    """
    os.chdir(parcel.here if parcel.here.is_dir() else Path.cwd())
    if parcel.versions != _versions():
        theirs, ours = (f"autoprune {a} with Python {p}" for a, p in (parcel.versions, _versions()))
        raise ConfigError(f"Node {node_name()} has {ours}, the driver {theirs}.", hint="Use the same on every node.")
    _require_shared(parcel)
    setup = replace(parcel.setup, task=_task_here(parcel))
    space, shipped = setup.base / setup.config.space, _shipped(SPACE_FILE)
    if space.suffix in SPACE_SUFFIXES and not space.is_file() and shipped is not None:
        return replace(setup, config=setup.config.model_copy(update={"space": str(shipped)}))
    return setup


def node_name() -> str:
    """Return this host's name, as records state it."""
    return platform.node()


def _versions() -> tuple[str, str]:
    try:
        return version("autoprune"), platform.python_version()
    except PackageNotFoundError:
        return "unknown", platform.python_version()


def _require_shared(parcel: Parcel) -> None:
    """Look for the run's directory; a network file system may show a new file late."""
    directory = parcel.setup.directory
    if parcel.setup.config.executor.store is not None:
        return
    deadline = time.monotonic() + MARK_SECONDS
    while not _is_marked(parcel):
        if time.monotonic() > deadline:
            raise ConfigError(
                f"Node {node_name()} does not see the run's directory {directory}.",
                hint="Put `output` on a file system that all nodes share, or name a store: executor.store.",
            )
        time.sleep(0.1)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigError(
            f"Node {node_name()} may not write into the run's directory {directory}.",
            hint="Give its user the right to, or name a store: executor.store.",
        )


def _is_marked(parcel: Parcel) -> bool:
    try:
        return (parcel.setup.directory / MARK_FILE).read_text(encoding="utf-8") == parcel.mark
    except OSError:
        return False


def _task_here(parcel: Parcel) -> TaskRef:
    task, file = parcel.setup.task, parcel.setup.task.file
    if file is None:
        return task
    if file.is_file():
        if task.sha256 != parcel.task_sha256:
            raise TaskError(
                f"The task file {file} on node {node_name()} differs from the driver's.",
                hint="Bring the node's copy up to date, then run the same command again: it resumes.",
            )
        return task
    shipped = _shipped(file.name)
    if shipped is None:
        raise TaskError(f"Node {node_name()} does not see the task file {file}.", hint="Put it where all nodes see it.")
    moved = replace(task, factory=f"{file.name}:{task.factory.rpartition(':')[2]}", base=shipped.parent)
    if moved.sha256 != parcel.task_sha256:
        raise TaskError(
            f"The task file that came to node {node_name()} differs from the driver's.",
            hint=f"{file} was changed meanwhile. Run the same command again: it resumes.",
        )
    return moved


def _shipped(name: str) -> Path | None:
    """Return a file that came with the connection."""
    spec = importlib.util.find_spec(PACKAGE)
    file = None if spec is None or spec.origin is None else Path(spec.origin).parent / name
    return file if file is not None and file.is_file() else None
