"""One call of a run: from wherever the records end, through search, controls and finalists, to the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from autoprune.config import config_digest
from autoprune.errors import CandidateError, StorageError, TaskError
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.document import FrontDocument
from autoprune.report.partial import remove_partial, write_partial
from autoprune.search.budget import Budget
from autoprune.search.callbacks import Callback, RunInfo, Stage
from autoprune.search.controls import control_jobs
from autoprune.search.describe import TrustFigures
from autoprune.search.directory import (
    EVENTS_FILE,
    FRONT_FILE,
    INDEX_BEHIND,
    EventLog,
    RunDirectory,
    read_events,
    total_times,
)
from autoprune.search.emit import Emission, emit
from autoprune.search.executors.base import Executor, Job
from autoprune.search.finalists import choose_finalists, finalist_jobs, median_recovery, recoveries
from autoprune.search.ledger import Ledger, trust_log
from autoprune.search.loop import Phase, Searcher, directions_of, run_loop
from autoprune.search.objectives import Constraints, constraints_of
from autoprune.search.partial import partial_of
from autoprune.search.phases import PhaseMaker, proxy_evaluations
from autoprune.search.result import SearchResult
from autoprune.search.samplers import LearnedSampler
from autoprune.search.siblings import SHARES, train_siblings
from autoprune.search.starting import start_executor, works_apart
from autoprune.search.study import STUDY_FILE, StudyIndex
from autoprune.search.underway import Underway
from autoprune.search.workbench import Workbench, evaluation_of

DENSE = Policy({})


class Driver:
    """Walks a run's road.

    Args:
        bench: The driver's workbench.
        directory: Where everything lies.
        callbacks: Who is told.
        warnings: What they are told first.
        command: What a user types to go on with the run; empty where nobody knows.
    """

    def __init__(
        self,
        bench: Workbench,
        directory: RunDirectory,
        callbacks: Sequence[Callback],
        warnings: Sequence[str],
        command: str = "",
    ) -> None:
        self.command = command
        self.bench = bench
        self.config = bench.config
        self.directory = directory
        self.callbacks = callbacks
        self.warnings = tuple(warnings)
        earlier = total_times(directory.path / EVENTS_FILE)
        self.events = EventLog(directory.path / EVENTS_FILE)
        workers = self.config.search.workers
        self.ledger = Ledger(bench.objectives, self.events, callbacks, workers, apart=works_apart(self.config))
        siblings = len(SHARES) if self.config.search.controls and hasattr(bench.user_task, "sibling") else 0
        self.budget = Budget(self.config, self.events, earlier, self.ledger.tallies, siblings)
        self._trust: TrustFigures | None = None
        self._ended = ""
        self._told_partial = False

    def finish(self, about: dict[str, Any]) -> SearchResult:
        """Walk the road from wherever the records end."""
        self.events.add("started", **({"command": self.command} if self.command else {}))
        try:
            with self._reported_when_interrupted():
                return SearchResult(self.directory.path, self._walk(about))
        except BaseException as error:
            self.events.add("stopped", error=type(error).__name__)
            raise

    def _walk(self, about: dict[str, Any]) -> FrontDocument:
        self.ledger.load(RecordStore(self.directory.path).load_all())
        dense = self._measure_dense()
        evaluation = evaluation_of(dense)
        self.bench.setup = replace(self.bench.setup, dense_ms=evaluation.latency[self.bench.targets[0].name].ms)
        metric = self.bench.task.metrics[0].name
        constraints = constraints_of(self.config, self.bench.task, evaluation.quality["val"][metric].value)
        with closing(start_executor(self.bench.setup, self.bench)) as executor, self._reported_when_interrupted():
            self._search(executor, PhaseMaker(self.bench, constraints, dense))
            self._controls(executor)
            finalists = self._recover_finalists(executor, constraints)
        return self._emit(finalists, constraints, about)

    @contextmanager
    def _reported_when_interrupted(self) -> Iterator[None]:
        """Write the partial report when Ctrl-C or SIGTERM ends the block, before anything that takes longer."""
        try:
            yield
        except KeyboardInterrupt as error:
            if not self._told_partial and self.ledger.records:
                self._told_partial = True
                error.add_note(self._write_partial())
            raise

    def _write_partial(self) -> str:
        """Write the partial report and return where it is."""
        part = partial_of(
            self.config,
            self.bench.objectives,
            self.ledger.records.values(),
            command=self.command,
            fronted=(self.directory.path / FRONT_FILE).is_file(),
        )
        try:
            return f"{part.headline}; partial report: {write_partial(part, self.directory.path)}"
        except StorageError as error:
            return f"{part.headline}; the partial report could not be written: {error}"

    def _measure_dense(self) -> CandidateRecord:
        job = Job(0, DENSE, "full")
        record = self.ledger.records.get(job.id)
        if record is None or record.state != "complete":
            if record is not None:
                RecordStore(self.directory.path).discard(record.id)
            record = self.bench.run(job)
            self.ledger.keep(record)
        if record.state != "complete":
            failure = record.failure or {}
            raise TaskError(
                f"The dense model cannot be evaluated at stage {failure.get('stage')}: {failure.get('message')}",
                hint="`autoprune check` tells more.",
            )
        return record

    def _search(self, executor: Executor, phases: PhaseMaker) -> None:
        proxies = proxy_evaluations(self.config, len(self.bench.space.groups))
        shorts = self.ledger.searched("short")
        info = RunInfo(
            name=self.config.name,
            directory=str(self.directory.path),
            objectives={o.name: o.direction for o in self.bench.objectives},
            evaluations=self.config.search.budget.evaluations,
            resumed=len(shorts),
            baseline=self.ledger.records[Job(0, DENSE, "full").id].values,
            warnings=self.warnings,
            proxy_evaluations=proxies,
            sampler=self.config.search.sampler,
        )
        for callback in self.callbacks:
            callback.on_search_start(info)
        if proxies > len(self.ledger.searched("proxy")):
            self._run_phase(executor, phases.proxy(), self.budget.proxy_ended)
        phase = phases.short(shorts, self.ledger.searched("proxy"))
        index = self._index()
        try:
            index.sync(shorts)
            self._ended = self._run_phase(executor, phase, self.budget.search_ended, index)
            if index.flush():
                self.events.add(INDEX_BEHIND)
        finally:
            index.close()
        self._trust = self._trust_of(phase)

    def _run_phase(
        self, executor: Executor, phase: Phase, stop: Callable[[], str | None], index: StudyIndex | None = None
    ) -> str:
        """Evaluate a phase's candidates and return why it ended."""
        context = phase.context
        records = self.ledger.searched(context.fidelity)
        everything = list(self.ledger.records.values())
        underway = Underway(self.directory.path)
        searcher = Searcher(
            phase,
            records,
            taken=[r for r in everything if r.is_control and r.fidelity == context.fidelity],
            first=max(r.number for r in everything) + 1,
            again=underway.left(context.fidelity, self.ledger.records),
        )
        for record in run_loop(searcher, executor, stop, context.evaluations - len(records), underway):
            self.ledger.finished_one(record, context.evaluations)
            if index is not None:
                index.offer(record)
        underway.tidy()
        self.events.add("phase_ended", fidelity=context.fidelity, because=searcher.ended)
        return searcher.ended

    def _index(self) -> StudyIndex:
        objectives = self.bench.objectives
        path = self.directory.path / STUDY_FILE
        return StudyIndex(path, self.config.name, directions_of(objectives), [o.name for o in objectives])

    def _trust_of(self, phase: Phase) -> TrustFigures | None:
        sampler = phase.sampler
        if not isinstance(sampler, LearnedSampler):
            return None
        log = trust_log(self.ledger.searched("proxy") + self.ledger.searched("short"), self.bench.objectives)
        return TrustFigures(log, sampler.fallback_reason(), sampler.weights())

    def _controls(self, executor: Executor) -> None:
        """Evaluate the baselines that the run compares itself with, unless no time is left."""
        count = self.config.search.controls
        if count == 0 or self.budget.controls_ended():
            return
        jobs = control_jobs(self.bench, list(self.ledger.records.values()), count)
        self._run_jobs(executor, jobs, "controls", lambda _: self.budget.controls_ended())
        if not self.budget.controls_ended():
            siblings = train_siblings(self.bench, list(self.ledger.records.values()))
            total = self.ledger.tallies["controls"].done + len(siblings)
            for record in siblings:
                self.ledger.finished_one(record, total)

    def _recover_finalists(self, executor: Executor, constraints: Constraints) -> list[CandidateRecord]:
        search = self.ledger.searched("short")
        count = self._finalist_count(len(search))
        chosen = choose_finalists(search, self.bench.objectives, constraints, count)
        if not chosen:
            reasons = sorted({str((r.failure or {}).get("message")) for r in search if r.state == "failed"})
            raise CandidateError(
                f"None of {len(search)} candidates could be evaluated: {'; '.join(reasons[:3])}",
                reason="error",
                stage="search",
                hint="`autoprune check` shows whether model and data are sound.",
            )
        jobs = finalist_jobs(chosen, self.config.recovery.seeds)
        self._run_jobs(executor, jobs, "finalists", lambda job: self.budget.all_spent() if job.repeat else None)
        found = recoveries(self.ledger.records.values())
        return [median_recovery(found[r.digest], self.bench.objectives[0]) for r in chosen if r.digest in found]

    def _finalist_count(self, searched: int) -> int:
        """Return how many candidates are recovered in full: as many as an earlier call decided on the same search."""
        limits = self.config.search.budget
        asked = {
            "searched": searched,
            "wanted": self.config.recovery.finalists,
            "limits": [limits.minutes, limits.cpu_seconds],
        }
        events = read_events(self.directory.path / EVENTS_FILE)
        decided = [e["count"] for e in events if e.get("event") == "finalists" and asked.items() <= e.items()]
        count = int(decided[-1]) if decided else self.budget.affordable_finalists()
        self.events.add("finalists", count=count, **asked)
        return count

    def _run_jobs(
        self, executor: Executor, jobs: Sequence[Job], stage: Stage, skip: Callable[[Job], str | None]
    ) -> None:
        """Evaluate what no record holds yet, but for jobs that `skip` gives a reason to leave out in their turn."""
        left = [j for j in jobs if j.id not in self.ledger.records]
        total, underway = self.ledger.tallies[stage].done + len(left), 0
        while left or underway:
            while left and executor.free:
                job = left.pop(0)
                if skip(job):
                    total -= 1
                    continue
                executor.submit(job)
                underway += 1
            for record in executor.collect():
                underway -= 1
                self.ledger.finished_one(record, total)

    def _emit(
        self, finalists: Sequence[CandidateRecord], constraints: Constraints, about: dict[str, Any]
    ) -> FrontDocument:
        records = self.ledger.records
        emission = Emission(
            self.bench,
            self.directory,
            self.events,
            constraints,
            about["identity"],
            config_digest(self.config),
            records,
            records[Job(0, DENSE, "full").id],
            trust=self._trust,
            ended_because=self._ended,
            repeats=recoveries(records.values()),
        )
        front, losses = emit(emission, finalists)
        remove_partial(self.directory.path)
        self.events.add("finished", members=len(front.members), failures=len(losses.lines))
        for callback in self.callbacks:
            callback.on_search_end(front)
        losses.report(len(front.members), self.directory.path)
        return front
