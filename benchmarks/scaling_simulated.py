"""Workers, schedule -> utilisation, hypervolume by wall-clock and the driver's own cost, on a simulated cluster.

What runs is the driver's real inner loop: `run_loop` with the learned sampler on the real space of ResNet-20 on digits,
records on disk, the ledger, the event log and the study index. What is made up: how long an evaluation takes, and its
quality, a fixed function of the policy.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from autoprune.config.model import RunConfig
from autoprune.evaluation.types import Cost, Evaluation, Interval
from autoprune.predictor.cost import CostModel
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.directory import EventLog
from autoprune.search.executors.base import Job
from autoprune.search.ledger import Ledger
from autoprune.search.loop import Phase, Searcher, directions_of, run_loop
from autoprune.search.samplers import SAMPLERS
from autoprune.search.setup import Setup
from autoprune.search.study import StudyIndex, quiet_optuna
from autoprune.space import LEVEL_PREFIX
from autoprune.tasks import TaskRef
from benchmarks.common import rounded
from benchmarks.scaling_cluster import Cluster, Durations, InBatches, SimulatedCluster, utilisation
from benchmarks.search_tasks import Outcome, SearchTask, hypervolume, one_thread, search_task

Schedule = Literal["asynchronous", "synchronous"]

TASK = "digits_resnet20"
EXAMPLE = "examples/digits.py:make_task"
SEED = 0
IMAGES = 1_000
TYPICAL_LOSS, NOISE = 0.1, 0.01
TOP_ACCURACY, LEAST_LOSS = 0.98, 0.1
SIGNAL_METRIC = "cross_entropy"
STUDY_FILE = "study.db"
Curve = Sequence[Sequence[float]]
"""[seconds, hypervolume] whenever it grew."""


@dataclass(frozen=True)
class Landscape:
    """Policy -> made-up quality: each group's loss grows with the square of what it loses, apart from noise.

    Args:
        widths: Group -> widths that its levels stand for.
        sensitivity: [G] loss of a group that is cut to nothing.
        costs: Parameters and MACs of any widths.
        images: Accuracy is a multiple of one image's share.
    """

    widths: Mapping[str, tuple[int, ...]]
    sensitivity: tuple[float, ...]
    costs: CostModel
    images: int = IMAGES

    @classmethod
    def of(cls, task: SearchTask, seed: int) -> Landscape:
        """Return the landscape over a task's space."""
        drawn = TYPICAL_LOSS * np.random.default_rng(seed).lognormal(0.0, 0.7, len(task.names))
        return cls(dict(task.space.widths), tuple(float(x) for x in drawn), task.costs)

    def __call__(self, job: Job, blank: CandidateRecord) -> CandidateRecord:
        """Return the complete record of a job."""
        params = job.proposal["params"]
        kept = np.array([[grid[int(params[LEVEL_PREFIX + name])] for name, grid in self.widths.items()]])
        removed = 1.0 - kept[0] / np.array([grid[0] for grid in self.widths.values()])
        noise = np.random.default_rng(int(job.policy.digest[:12], 16)).normal(0.0, NOISE)
        loss = max(0.0, float((np.array(self.sensitivity) * removed**2).sum() + noise))
        accuracy = round(self.images * TOP_ACCURACY * float(np.exp(-loss))) / self.images
        parameters, macs = int(self.costs.parameters(kept)[0]), int(self.costs.macs(kept)[0])
        scored = {"accuracy": accuracy, SIGNAL_METRIC: LEAST_LOSS + loss}
        quality = {name: Interval(v, v, v, self.images, "image", "made up") for name, v in scored.items()}
        cost = Cost(parameters, parameters, macs, 4 * parameters, 4 * parameters)
        evaluation = asdict(Evaluation({"val": quality}, {}, cost))
        values = {"accuracy": accuracy, "macs": float(macs)}
        return replace(blank, state="complete", values=values, evaluation=evaluation)

    def dense(self) -> dict[str, float]:
        """Return what a run knows of the dense network before it searches."""
        whole = np.array([[grid[0] for grid in self.widths.values()]])
        return {"accuracy": TOP_ACCURACY, "macs": float(self.costs.macs(whole)[0]), SIGNAL: LEAST_LOSS}


@dataclass(frozen=True)
class Plan:
    """One run on the simulated cluster.

    Args:
        workers: Their number.
        schedule: Replace each candidate at once, or wait for whole batches.
        evaluations: Candidates of the run.
        mean_s: Mean seconds of an evaluation.
        limit_s: Wall seconds after which it ends; None = when its candidates are done.
        sampler: Who proposes.
        task: Benchmark task whose space is searched.
    """

    workers: int
    schedule: Schedule
    evaluations: int
    mean_s: float
    limit_s: float | None = None
    sampler: str = "autoprune"
    task: str = TASK


def simulated_row(plan: Plan) -> dict[str, Any]:
    """Run a plan in a process of its own, so that memory and CPU seconds are its own, and return its row."""
    search_task(plan.task)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run_plan, plan).result()


def run_plan(plan: Plan) -> dict[str, Any]:
    """Run a plan in this process and return its row."""
    task = search_task(plan.task)
    landscape, durations = Landscape.of(task, SEED), Durations(plan.mean_s, seed=SEED)
    context = replace(task.context(SEED, plan.evaluations, workers=plan.workers), dense=landscape.dense())
    before = _peak_mib()
    with tempfile.TemporaryDirectory() as name, one_thread(), quiet_optuna():
        folder = Path(name)
        setup = Setup(RunConfig(task=EXAMPLE), TaskRef(EXAMPLE, {}, folder), folder, folder)
        cluster = SimulatedCluster(Cluster(setup, plan.workers, durations, landscape))
        load, cpu = psutil.getloadavg()[0], time.process_time()
        try:
            records = list(_search(plan, context, cluster, folder))
        finally:
            cluster.close()
        cpu = time.process_time() - cpu
        stored = {record.id for record in RecordStore(folder).load_all()}
        indexed = _indexed(folder / STUDY_FILE)
    return {
        **asdict(plan),
        "load_average_before": rounded(load),
        "records_missing": sum(record.id not in stored for record in records),
        **_of_the_workers(plan, cluster, durations, records),
        **_of_the_driver(cluster, cpu, len(records)),
        "driver_peak_mib": rounded(_peak_mib()),
        "driver_peak_mib_before": rounded(before),
        "indexed": indexed,
        "hypervolume": _volumes(cluster, records, landscape.dense()["macs"]),
    }


def _search(plan: Plan, context: SamplerContext, cluster: SimulatedCluster, folder: Path) -> Iterator[CandidateRecord]:
    """Run the search as the driver does, and yield every record."""
    executor = cluster if plan.schedule == "asynchronous" else InBatches(cluster, plan.workers)
    searcher = Searcher(Phase(context, SAMPLERS[plan.sampler](context), SIGNAL_METRIC, plateau=False), [])
    names = [o.name for o in context.objectives]
    ledger = Ledger(context.objectives, EventLog(folder / "events.jsonl"), (), plan.workers, apart=True)
    index = StudyIndex(folder / STUDY_FILE, "scaling", directions_of(context.objectives), names)
    index.sync([])
    end = time.monotonic() + (plan.limit_s or math.inf)
    try:
        for record in run_loop(searcher, executor, lambda: None, plan.evaluations):
            ledger.finished_one(record, plan.evaluations)
            index.offer(record)
            yield record
            if time.monotonic() > end:
                return
    finally:
        index.close()


def _of_the_workers(
    plan: Plan, cluster: SimulatedCluster, durations: Durations, records: Sequence[CandidateRecord]
) -> dict[str, Any]:
    """Return what became of the workers' time, from the first submission to the last, or to the end of the time.

    A worker is busy while it sleeps its drawn time: waiting for a job and writing a record count as lost.
    """
    start, end = cluster.submits[0], cluster.submits[-1]
    if len(cluster.submits) < plan.evaluations and plan.limit_s is not None:
        end = start + plan.limit_s
    done = {span.number for span in cluster.spans}
    asleep = [(span.start, span.slept) for span in cluster.spans]
    submitted = enumerate(cluster.submits, start=1)
    asleep += [(at, at + durations.of(number).seconds) for number, at in submitted if number not in done]
    return {
        "submitted": len(cluster.submits),
        "finished": len(records),
        "failed": sum(r.state == "failed" for r in records),
        "wall_s": rounded(end - start),
        "utilisation": rounded(utilisation(asleep, plan.workers, start, end)),
        "first_wave_s": rounded(cluster.submits[min(plan.workers, len(cluster.submits)) - 1] - start),
        "median_writing_s": rounded(float(np.median([span.end - span.slept for span in cluster.spans]))),
    }


def _of_the_driver(cluster: SimulatedCluster, cpu: float, finished: int) -> dict[str, Any]:
    """Return what the driver's process took; `driver_waited_share` is the share of the wall in which it was idle."""
    wall = max(span.end for span in cluster.spans) - cluster.submits[0]
    return {
        "driver_cpu_s": rounded(cpu),
        "driver_cpu_ms_a_candidate": rounded(1e3 * cpu / max(finished, 1)),
        "driver_waited_share": rounded(cluster.waited_s / wall),
        "longest_gap_s": rounded(float(np.diff(cluster.submits).max())),
    }


def _volumes(
    cluster: SimulatedCluster, records: Sequence[CandidateRecord], dense_macs: float
) -> list[tuple[float, float]]:
    """Return (seconds, hypervolume) whenever it grew, by the times at which records were on disk."""
    ends = {span.number: span.end - cluster.submits[0] for span in cluster.spans}
    front: list[Outcome] = []
    curve: list[tuple[float, float]] = []
    for record in sorted((r for r in records if r.state == "complete"), key=lambda r: ends[r.number]):
        error, share = 1.0 - record.values["accuracy"], record.values["macs"] / dense_macs
        if any(o.error <= error and o.macs_share <= share for o in front):
            continue
        front = [o for o in front if o.error < error or o.macs_share < share] + [Outcome(error, 0.0, share, 0.0)]
        volume = hypervolume(front)
        if not curve or volume > curve[-1][1]:
            curve.append((rounded(ends[record.number]), rounded(volume, 5)))
    return curve


def _indexed(path: Path) -> int:
    """Return the candidates that the study index had taken when the last one came back; the others it has put off."""
    with closing(sqlite3.connect(path)) as base:
        return int(base.execute("SELECT count(*) FROM trials").fetchone()[0])


def volume_at(curve: Curve, seconds: float) -> float:
    """Return the hypervolume of a curve at a time; 0 before its first point."""
    return max((volume for at, volume in curve if at <= seconds), default=0.0)


def time_to(curve: Curve, volume: float) -> float | None:
    """Return when a curve reached a hypervolume; None where it never did."""
    return next((at for at, reached in curve if reached >= volume), None)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
