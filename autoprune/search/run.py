"""Configuration -> front: the whole road of one run, resumable at every step from what is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoprune.config import LoadedConfig, RunConfig, load_config
from autoprune.errors import ConfigError
from autoprune.records import RunLock
from autoprune.search.callbacks import Callback
from autoprune.search.check import load_checked_task, run_directory_of, setup_of
from autoprune.search.driver import Driver
from autoprune.search.executors.fetching import store_of
from autoprune.search.objectives import constraints_of
from autoprune.search.reach import refuse_unreachable
from autoprune.search.result import SearchResult, finished_front, satisfied, settled
from autoprune.search.starting import works_apart
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef, check_task
from autoprune.tasks.protocol import Task


def run_search(
    task_or_config: str | Path | RunConfig | Task,
    *,
    overrides: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    accept_changes: bool = False,
    **settings: Any,
) -> SearchResult:
    """Search the pruning policies of a model and emit the front; the same name resumes.

    Args:
        task_or_config: Path of a YAML configuration, a configuration, or a task object (one worker only).
        overrides: `dotted.path=value` as on the command line, for a path.
        callbacks: Told of progress.
        accept_changes: Continue a run whose configuration, task or data differ.
        settings: Fields of `RunConfig` for a task object, such as `name`, `space`, `search`, `output`.

    Raises:
        AutopruneError: See its kinds in `autoprune.errors`.
    """
    if isinstance(task_or_config, str | Path):
        if settings:
            raise ConfigError(
                f"A configuration file takes no further settings. Got {', '.join(settings)}.",
                hint="Use overrides=['search.seed=1'].",
            )
        return run(load_config(task_or_config, overrides=overrides), callbacks=callbacks, accept_changes=accept_changes)
    if isinstance(task_or_config, RunConfig):
        loaded = _loaded(task_or_config)
        return run(loaded, callbacks=callbacks, accept_changes=accept_changes)
    kind = type(task_or_config)
    config = RunConfig.model_validate({"task": f"{kind.__module__}:{kind.__name__}", **settings})
    if works_apart(config):
        raise ConfigError(
            "A task object cannot travel to other processes.",
            hint="Name a factory, or use executor.kind=local with one worker, no time-out and no memory limit.",
        )
    return run(_loaded(config), callbacks=callbacks, accept_changes=accept_changes, task=task_or_config)


def run(
    loaded: LoadedConfig,
    *,
    callbacks: Sequence[Callback] = (),
    accept_changes: bool = False,
    task: Task | None = None,
    command: str = "",
) -> SearchResult:
    """Run a configuration to its front, continuing what an earlier call has finished.

    Args:
        loaded: The configuration.
        callbacks: Told of progress.
        accept_changes: Continue a run whose configuration, task or data differ.
        task: The task, where the configuration cannot name its factory.
        command: What a user types to go on with the run, for its partial report.

    Raises:
        AutopruneError: Nothing is written when configuration, task, model or data are unusable.
        PartialResultError: The front is written, but members failed to be emitted.
        UnmetConstraintError: The front is written, but none of its models satisfies the constraints.
        RunLockedError: Another run has the directory, or everything but `study.db`, which stayed locked, is written.
    """
    directory = run_directory_of(loaded)
    directory.check()
    finished = finished_front(loaded, directory) if task is None else None
    if finished is not None:
        return satisfied(settled(SearchResult(directory.path, finished)))
    if directory.started:
        with RunLock(directory.path):  # a run that is locked is refused before its model is loaded
            pass
    given = task
    reference, task, warnings = _task_of(loaded, task)
    bench = Workbench(setup_of(loaded, reference), task)
    notes = (*warnings, *bench.groups.notes, *bench.space.notes)
    identity = {"task_sha256": reference.sha256, "data_fingerprint": bench.task.fingerprint}
    about: dict[str, Any] = {
        "identity": identity,
        "objectives": [asdict(o) for o in bench.objectives],
        "warnings": list(notes),
    }
    bench.require_dense()
    if not directory.started:
        refuse_unreachable(bench, constraints_of(bench.config, bench.task, 0.0))
    directory.create()
    with RunLock(directory.path):
        finished = finished_front(loaded, directory) if given is None else None
        if finished is not None:
            return satisfied(settled(SearchResult(directory.path, finished)))
        directory.prepare(bench.config, about, accept_changes=accept_changes)
        if bench.config.executor.store is not None:
            store = store_of(bench.setup)
            store.claim(bench.config, identity, accept_changes=accept_changes)
            store.pull_all(directory.path)
        return satisfied(settled(Driver(bench, directory, callbacks, notes, command).finish(about)))


def _loaded(config: RunConfig) -> LoadedConfig:
    here = Path.cwd()
    return LoadedConfig(config, here / "config.yaml", here, config.model_dump(mode="json"))


def _task_of(loaded: LoadedConfig, task: Task | None) -> tuple[TaskRef, Task, list[str]]:
    if task is None:
        return load_checked_task(loaded)
    return TaskRef(loaded.config.task, loaded.config.task_args, loaded.base), task, check_task(task)
