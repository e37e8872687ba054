"""Configuration -> front: the whole road of one run, resumable at every step from what is on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autoprune.config import LoadedConfig, RunConfig, config_digest, load_config
from autoprune.errors import (
    CandidateError,
    ConfigError,
    PartialResultError,
    TaskError,
)
from autoprune.evaluation.types import Evaluation
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, RecordStore, RunLock
from autoprune.report.document import FrontDocument
from autoprune.search.callbacks import Callback, Progress, RunInfo, Stage
from autoprune.search.check import (
    load_checked_task,
    measure_floor,
    refuse_unreachable,
    run_directory_of,
    setup_of,
)
from autoprune.search.directory import EVENTS_FILE, EventLog, RunDirectory, total_times
from autoprune.search.emit import Emission, emit
from autoprune.search.executors.base import Executor, Job
from autoprune.search.executors.local import make_executor
from autoprune.search.finalists import choose_finalists, front_so_far
from autoprune.search.loop import Searcher, directions_of, policy_of, run_loop
from autoprune.search.objectives import Constraints, constraints_of
from autoprune.search.result import SearchResult, finished_front, satisfied
from autoprune.search.study import StudyIndex
from autoprune.search.workbench import Workbench, evaluation_of
from autoprune.tasks import TaskRef, check_task
from autoprune.tasks.protocol import Task

DENSE = Policy({})
STUDY_FILE = "study.db"


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
    if config.search.workers != 1:
        raise ConfigError("A task object cannot travel to workers.", hint="Name a factory, or use one worker.")
    return run(_loaded(config), callbacks=callbacks, accept_changes=accept_changes, task=task_or_config)


def run(
    loaded: LoadedConfig,
    *,
    callbacks: Sequence[Callback] = (),
    accept_changes: bool = False,
    task: Task | None = None,
) -> SearchResult:
    """Run a configuration to its front, continuing what an earlier call has finished.

    Raises:
        AutopruneError: Nothing is written when configuration, task, model or data are unusable.
        PartialResultError: The front is written, but members failed to be emitted.
        UnmetConstraintError: The front is written, but none of its models satisfies the constraints.
    """
    directory = run_directory_of(loaded)
    directory.check()
    finished = finished_front(loaded, directory) if task is None else None
    if finished is not None:
        return satisfied(SearchResult(directory.path, finished))
    if directory.started:
        with RunLock(directory.path):  # a run that is locked is refused before its model is loaded
            pass
    given = task
    reference, task, warnings = _task_of(loaded, task)
    bench = Workbench(setup_of(loaded, reference), task)
    notes = (*warnings, *bench.groups.notes)
    about = {
        "identity": {"task_sha256": reference.sha256, "data_fingerprint": bench.task.fingerprint},
        "objectives": [asdict(o) for o in bench.objectives],
        "warnings": list(notes),
    }
    bench.require_dense()
    if not directory.started:
        _refuse_what_cannot_be(bench)
    directory.create()
    with RunLock(directory.path):
        finished = finished_front(loaded, directory) if given is None else None
        if finished is not None:
            return satisfied(SearchResult(directory.path, finished))
        directory.prepare(bench.config, about, accept_changes=accept_changes)
        return satisfied(_Run(bench, directory, callbacks, notes).finish(about))


class _Run:
    """One call of a run: the driver's state."""

    def __init__(
        self, bench: Workbench, directory: RunDirectory, callbacks: Sequence[Callback], warnings: Sequence[str]
    ) -> None:
        self.bench = bench
        self.warnings = tuple(warnings)
        self.config = bench.config
        self.directory = directory
        self.callbacks = callbacks
        self._earlier_s, _ = total_times(directory.path / EVENTS_FILE)
        self.events = EventLog(directory.path / EVENTS_FILE)
        self.records: dict[str, CandidateRecord] = {}
        self.failed: dict[Stage, int] = {}
        self._front: tuple[str, ...] = ()

    def finish(self, about: dict[str, Any]) -> SearchResult:
        """Walk the road from wherever the records end."""
        self.events.add("started")
        try:
            self.records = {r.id: r for r in RecordStore(self.directory.path).load_all()}
            dense = self._measure_dense()
            self.bench.setup = replace(self.bench.setup, dense_ms=_dense_ms(self.bench, dense))
            constraints = constraints_of(
                self.config, self.bench.task, dense.quality["val"][self.bench.task.metrics[0].name].value
            )
            executor = make_executor(self.bench.setup, self.bench)
            try:
                self._search(executor, constraints)
                finalists = self._recover_finalists(executor, constraints)
            finally:
                executor.close()
            front = self._emit(finalists, constraints, about)
        except BaseException as error:
            self.events.add("stopped", error=type(error).__name__)
            raise
        return SearchResult(self.directory.path, front)

    def _measure_dense(self) -> Evaluation:
        job = Job(0, DENSE, "full")
        record = self.records.get(job.id)
        if record is None or record.state != "complete":
            if record is not None:
                RecordStore(self.directory.path).discard(record.id)
            record = self.bench.run(job)
            self.records[record.id] = record
        if record.state != "complete":
            failure = record.failure or {}
            raise TaskError(
                f"The dense model cannot be evaluated at stage {failure.get('stage')}: {failure.get('message')}",
                hint="`autoprune check` tells more.",
            )
        return evaluation_of(record)

    def _search(self, executor: Executor, constraints: Constraints) -> None:
        budget = self.config.search.budget
        records = [r for r in self.records.values() if r.fidelity == "short"]
        info = RunInfo(
            name=self.config.name,
            directory=str(self.directory.path),
            objectives={o.name: o.direction for o in self.bench.objectives},
            evaluations=budget.evaluations,
            resumed=len(records),
            baseline=self.records[Job(0, DENSE, "full").id].values,
            warnings=self.warnings,
        )
        for callback in self.callbacks:
            callback.on_search_start(info)
        searcher = Searcher(
            config=self.config,
            space=self.bench.space,
            objectives=self.bench.objectives,
            constraints=constraints,
            records=sorted(records, key=lambda r: r.number),
        )
        index = StudyIndex(
            self.directory.path / STUDY_FILE,
            self.config.name,
            directions_of(self.bench.objectives),
            [o.name for o in self.bench.objectives],
        )
        index.sync(searcher.records)
        try:
            for record in run_loop(searcher, executor, self._out_of_time, budget.evaluations - len(records)):
                index.add(record)
                self._finished_one(record, "search", budget.evaluations)
        finally:
            index.close()

    def _recover_finalists(self, executor: Executor, constraints: Constraints) -> list[CandidateRecord]:
        search = [r for r in self.records.values() if r.fidelity == "short"]
        chosen = choose_finalists(search, self.bench.objectives, constraints, self.config.recovery.finalists)
        if not chosen:
            reasons = sorted({str((r.failure or {}).get("message")) for r in search if r.state == "failed"})
            raise CandidateError(
                f"None of {len(search)} candidates could be evaluated: {'; '.join(reasons[:3])}",
                reason="error",
                stage="search",
                hint="`autoprune check` shows whether model and data are sound.",
            )
        jobs = [Job(r.number, policy_of(r), "full", r.proposal) for r in chosen]
        left = [j for j in jobs if j.id not in self.records]
        underway = 0
        while left or underway:
            while left and executor.free:
                executor.submit(left.pop(0))
                underway += 1
            for record in executor.collect():
                underway -= 1
                self._finished_one(record, "finalists", len(jobs))
        return [self.records[j.id] for j in jobs if self.records[j.id].state == "complete"]

    def _emit(self, finalists: list[CandidateRecord], constraints: Constraints, about: dict[str, Any]) -> FrontDocument:
        emission = Emission(
            self.bench,
            self.directory,
            self.events,
            constraints,
            about["identity"],
            config_digest(self.config),
            self.records,
            self.records[Job(0, DENSE, "full").id],
        )
        front, failures = emit(emission, finalists)
        self.events.add("finished", members=len(front.members), failures=len(failures))
        for callback in self.callbacks:
            callback.on_search_end(front)
        if failures:
            raise PartialResultError(
                f"{len(failures)} of {len(failures) + len(front.members)} front members could not be emitted: "
                f"{'; '.join(failures)}",
                hint=f"The others are complete in {self.directory.path}.",
            )
        return front

    def _finished_one(self, record: CandidateRecord, stage: Stage, total: int) -> None:
        self.records[record.id] = record
        if record.state == "failed":
            self.failed[stage] = self.failed.get(stage, 0) + 1
        fidelity = "short" if stage == "search" else "full"
        done = [r for r in self.records.values() if r.fidelity == fidelity and r.number > 0]
        front = front_so_far(done, self.bench.objectives)
        elapsed = self.events.elapsed
        rate = sum(r.seconds for r in done) / len(done) / self.config.search.workers
        progress = Progress(
            stage, len(done), total, self.failed.get(stage, 0), elapsed, rate * max(total - len(done), 0), front
        )
        self.events.add("candidate", id=record.id, number=record.number, state=record.state, fidelity=fidelity)
        for callback in self.callbacks:
            callback.on_candidate_end(record, progress)
        ids = tuple(i for i, _ in front)
        if ids != self._front:
            self._front = ids
            for callback in self.callbacks:
                callback.on_front_update(progress)

    def _out_of_time(self) -> bool:
        """Tell whether finalists would miss the budget of minutes if one more candidate were evaluated."""
        minutes = self.config.search.budget.minutes
        if minutes is None:
            return False
        done = [r for r in self.records.values() if r.fidelity == "short" and r.state == "complete"]
        if not done:
            return self._spent_s >= 60.0 * minutes
        pruning = sum(evaluation_of(r).seconds.get("prune", 0.0) for r in done) / len(done)
        each = sum(r.seconds for r in done) / len(done)
        budget = self.config.recovery
        longer = budget.full_steps / max(budget.short_steps, 1)
        final = budget.finalists * (pruning * longer + 3.0 * (each - pruning)) / self.config.search.workers
        return self._spent_s + each + final >= 60.0 * minutes

    @property
    def _spent_s(self) -> float:
        """Wall seconds of this call and of those before it."""
        return self._earlier_s + self.events.elapsed


def _loaded(config: RunConfig) -> LoadedConfig:
    here = Path.cwd()
    return LoadedConfig(config, here / "config.yaml", here, config.model_dump(mode="json"))


def _task_of(loaded: LoadedConfig, task: Task | None) -> tuple[TaskRef, Task, list[str]]:
    if task is None:
        return load_checked_task(loaded)
    return TaskRef(loaded.config.task, loaded.config.task_args, loaded.base), task, check_task(task)


def _refuse_what_cannot_be(bench: Workbench) -> None:
    """Refuse constraints that no policy of the space meets, before anything is written."""
    constraints = constraints_of(bench.config, bench.task, 0.0)
    if constraints.max_latency_ms is not None:
        rounds = bench.config.latency.rounds
        dense = bench.evaluate(bench.model, seed=0, rounds=rounds, seconds={})
        refuse_unreachable(constraints, dense, measure_floor(bench))


def _dense_ms(bench: Workbench, dense: Evaluation) -> float:
    """Return the latency of the dense model that the whole run refers to."""
    return dense.latency[bench.targets[0].name].ms
