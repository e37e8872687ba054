"""What forks of the warm process do: a whole search by the command line, or the real loop with 5 ms candidates."""

from __future__ import annotations

import functools
import itertools
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO

import run_factory
import sampler_cases
import tiny
import torch
from record_factory import numbered
from torch.utils.flop_counter import FlopCounterMode

from autoprune.artifacts import FORMATS
from autoprune.cli.app import main
from autoprune.config import load_config
from autoprune.errors import CandidateError, RunLockedError
from autoprune.evaluation import measure_latency
from autoprune.evaluation.types import Latency
from autoprune.groups import ModelGroups, find_groups, prepare_model
from autoprune.records import CandidateRecord, RecordStore, RunLock
from autoprune.search.context import SamplerContext
from autoprune.search.directory import EVENTS_FILE, EventLog
from autoprune.search.executors.base import Job
from autoprune.search.ledger import Ledger
from autoprune.search.loop import Phase, Searcher, directions_of, run_loop
from autoprune.search.run import run
from autoprune.search.samplers import SAMPLERS
from autoprune.search.study import StudyIndex
from autoprune.search.underway import Underway
from autoprune.search.workbench import Workbench
from autoprune.storage import faults
from autoprune.tasks import ClassificationTask, GuardedTask
from autoprune.tasks.protocol import Evaluated

CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
search: {{sampler: autoprune, controls: 0, plateau: false, budget: {{evaluations: 4, proxy_evaluations: 4}}}}
recovery: {{short_steps: 2, full_steps: 3, finalists: 2, seeds: 1, proxy_images: 64, rungs: [0.5]}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 5}}
executor: {{threads: 1}}
output: {output}
"""
TESTS = Path(__file__).resolve().parent.parent


def write_config(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(tests=TESTS, output=folder / "results"))
    return path


def warm_up() -> None:
    """Run one search without exports, so that modules are imported and caches filled."""
    torch.set_num_threads(1)
    small_context()
    with tempfile.TemporaryDirectory() as folder:
        none: dict[str, Any] = {}
        replace_everywhere(FORMATS, none, within="autoprune.search.")
        run(load_config(write_config(Path(folder)), environ={}))
        replace_everywhere(none, FORMATS, within="autoprune.search.")


def search(
    config: str,
    overrides: Sequence[str] = (),
    *,
    fault: str = "",
    journal: str = "",
    file_limit: int | None = None,
    replayed: bool = True,
    exports: bool = False,
    spoiled: bool = False,
    jumping: bool = False,
    patience_s: float | None = None,
    traced: bool = True,
) -> None:
    """Run `autoprune search`.

    Args:
        config: The configuration's path.
        overrides: `dotted.path=value`.
        fault: The place at which the process is killed.
        journal: File to which the id of each candidate is appended when its evaluation begins.
        file_limit: Most bytes that a file may grow to; a longer write fails as on a full disk.
        replayed: Whether latency is computed from the operations counted instead of being measured.
        jumping: Whether the wall clock jumps by a day at each look at it.
        patience_s: How long the index waits at the end of the run for its database; None = as it is.
        traced: Whether the model is the small one whose groups are known already.
        spoiled: Whether the measurements of most candidates go wrong.
        exports: Whether members are exported to ONNX and to torch.export, which takes most of a small run's time.
    """
    if replayed:
        replace_everywhere(measure_latency, replayed_latency)
    if not exports:
        replace_everywhere(FORMATS, {}, within="autoprune.search.")
    if jumping:
        let_clock_jump()
    if patience_s is not None:
        (StudyIndex.__init__.__kwdefaults__ or {})["patience_s"] = patience_s
    if spoiled:
        spoil_measurements()
    if journal:
        keep_journal(journal)
    if traced:
        replace_everywhere(find_groups, lambda *_, **__: tiny_groups())
    faults.arm(fault)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    command("search", config, *(part for text in overrides for part in ("--set", text)))


def command(*arguments: str) -> None:
    """Run the command line."""
    sys.argv = ["autoprune", *arguments]
    main()


def call(folder: str, arguments: Sequence[str]) -> None:
    """Run the command line in a folder."""
    os.chdir(folder)
    command(*arguments)


def keep_journal(path: str) -> None:
    evaluate = Workbench.run

    def run(bench: Workbench, job: Job) -> CandidateRecord:
        with Path(path).open("a") as file:
            file.write(f"{job.id}\n")
        return evaluate(bench, job)

    replace_method(Workbench, "run", run)


def spoil_measurements() -> None:
    """Let two of three candidates go wrong, each in one of four ways; the dense model and the finalists never do."""
    way = ""

    def run(bench: Workbench, job: Job) -> CandidateRecord:
        nonlocal way
        trained = job.fidelity == "full"
        way = "" if trained else ("metric", "signal", "", "latency", "recover", "")[job.number % 6]
        return evaluate(bench, job)

    def score(task: GuardedTask, *args: Any, **kwargs: Any) -> Evaluated:
        found = scored(task, *args, **kwargs)
        spoils = {"metric": {"accuracy": math.nan}, "signal": {"cross_entropy": math.inf}}
        return replace(found, metrics={**found.metrics, **spoils.get(way, {})})

    def recover(task: ClassificationTask, *args: Any) -> None:
        if way == "recover":
            raise CandidateError("the loss is nan", reason="diverged", stage="recover")
        recovered(task, *args)

    def latency(*args: Any) -> Latency:
        found = replayed_latency(*args)
        return replace(found, ms=0.0, speedup=math.inf) if way == "latency" else found

    evaluate, scored, recovered = Workbench.run, GuardedTask.evaluate, ClassificationTask.recover
    for kind, name, new in (
        (Workbench, "run", run),
        (GuardedTask, "evaluate", score),
        (ClassificationTask, "recover", recover),
    ):
        replace_method(kind, name, new)
    replace_everywhere(replayed_latency, latency)


def replace_method(kind: type, name: str, new: Callable[..., Any]) -> None:
    setattr(kind, name, new)


def let_clock_jump() -> None:
    """Let every look at the wall clock find another day: today, tomorrow, yesterday, and so on."""
    looks = itertools.count()
    real, today = time.time, datetime

    def jump() -> float:
        return (0.0, 86400.0, -86400.0)[next(looks) % 3]

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return today.now(tz) + timedelta(seconds=jump())

    time.time = lambda: real() + jump()
    for package in ("autoprune", "optuna", "datetime"):
        replace_everywhere(datetime, Jumping, within=package)


def write_records(run: str, first: int) -> None:
    """Write records without end, and tell of each once it is acknowledged."""
    store = RecordStore(Path(run))
    print("ready", flush=True)
    for number in itertools.count(first):
        record = numbered(number)
        store.write(record, {"model.safetensors": bytes(20_000)})
        print(record.id, flush=True)


def hold_lock(run: str, patience_s: float) -> None:
    """Reach for a run's directory as soon as a file says so, and keep it."""
    while not (Path(run) / "go").exists():
        time.sleep(0.001)
    try:
        with RunLock(Path(run), patience_s=patience_s):
            print("won", flush=True)
            time.sleep(600)
    except RunLockedError as error:
        print("lost", error, flush=True)


def replace_everywhere(old: Any, new: Any, *, within: str = "autoprune") -> None:
    """Exchange an object in every module that has it under some name."""
    for module in [m for name, m in sys.modules.items() if name.startswith(within)]:
        for name in [name for name, value in vars(module).items() if value is old]:
            setattr(module, name, new)


def replayed_latency(candidate: Callable[[], None], dense: Callable[[], None], settings: Any) -> Latency:
    """Return a latency that is the same at every call: a floor and a time for each operation of the eager model."""
    ms, dense_ms = (0.05 + flops_of(call) / 1e8 for call in (candidate, dense))
    ratio = dense_ms / ms
    return Latency(
        ms=ms,
        low=0.99 * ms,
        high=1.01 * ms,
        samples=settings.rounds,
        speedup=ratio,
        speedup_low=0.99 * ratio,
        speedup_high=1.01 * ratio,
        clean=True,
        polluted_share=0.0,
        dense_ms=dense_ms,
        quantiles_ms=5 * (ms,),
    )


def flops_of(call: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@functools.cache
def tiny_groups() -> ModelGroups:
    """Return the groups of the small model, traced once for all forks."""
    return find_groups(prepare_model(tiny.TinyNet().eval())[0], sampler_cases.example())


@functools.cache
def small_context() -> SamplerContext:
    net, _ = prepare_model(tiny.TinyNet().eval())
    return sampler_cases.context_of(net, tiny_groups(), [sampler_cases.ACCURACY, sampler_cases.MACS], levels=6)


class FiveMilliseconds:
    """An executor whose candidates take 5 ms; writes what it begins and what is on disk to an append-only journal."""

    def __init__(self, context: SamplerContext, store: RecordStore, journal: BinaryIO) -> None:
        self.context = context
        self.store = store
        self.journal = journal
        self.waiting: list[Job] = []

    @property
    def free(self) -> int:
        return self.context.workers - len(self.waiting)

    def submit(self, job: Job) -> None:
        self.waiting.append(job)

    def collect(self) -> list[CandidateRecord]:
        return [self.evaluate(self.waiting.pop())] if self.waiting else []

    def close(self) -> None:
        self.waiting.clear()

    def evaluate(self, job: Job) -> CandidateRecord:
        self.journal.write(f"begun {job.id}\n".encode())
        time.sleep(0.005)
        figures = sampler_cases.measured(self.context, job.proposal["params"])
        record = run_factory.measured(job, values={o.name: figures[o.name] for o in self.context.objectives})
        quality = {"accuracy": {"value": figures["accuracy"]}, "cross_entropy": {"value": figures["signal"]}}
        cost = {"macs": figures["macs"], "parameters": figures["parameters"]}
        record = replace(record, evaluation={**(record.evaluation or {}), "quality": {"val": quality}, "cost": cost})
        self.store.write(record, {"plan.json": b"{}"})
        self.journal.write(f"ended {job.id}\n".encode())
        return record


def five_ms(run: str, journal: str, evaluations: int, workers: int = 1, sampler: str = "autoprune") -> None:
    """Run the real loop, sampler, records, ledger, log and index with candidates that take 5 ms."""
    context = replace(small_context(), evaluations=evaluations, workers=workers, fidelity="short")
    directory = Path(run)
    with RunLock(directory, patience_s=5.0), Path(journal).open("ab", buffering=0) as handle:
        store, events = RecordStore(directory), EventLog(directory / EVENTS_FILE)
        events.add("started")
        ledger = Ledger(context.objectives, events, (), workers, apart=False)
        ledger.load(store.load_all())
        found = ledger.searched(context.fidelity)
        phase = Phase(context, SAMPLERS[sampler](context), "cross_entropy", plateau=False)
        underway = Underway(directory)
        again = underway.left("short", ledger.records)
        searcher = Searcher(phase, found, first=max((r.number for r in found), default=0) + 1, again=again)
        names = [o.name for o in context.objectives]
        index = StudyIndex(directory / "study.db", "five_ms", directions_of(context.objectives), names)
        index.sync(found)
        executor = FiveMilliseconds(context, store, handle)
        for record in run_loop(searcher, executor, lambda: None, evaluations - len(found), underway):
            ledger.finished_one(record, evaluations)
            index.offer(record)
        index.settle()
        index.close()
        events.add("finished", failures=0)
