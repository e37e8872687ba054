"""One real worker against two: recovery-bound candidates a second, one thread each, in turns on the same machine.

What a machine gives at best is measured beside it: the same training in one and in two plain processes, without us.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.config.model import RunConfig
from autoprune.policy import Policy
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Executor, Job
from autoprune.search.executors.make import make_executor
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench
from autoprune.tasks import ClassificationTask, TaskRef, load_task
from benchmarks.common import ROOT, rounded

BASE = ROOT / "examples"
FACTORY = "digits.py:make_task"
SPARSITIES = (0.2, 0.3, 0.4, 0.5)
STEPS = 300
ROUNDS = 5
BATCH = 64
COUNTS = (1, 2)


@dataclass
class Usage:
    """What the processors did during a stretch of time.

    Args:
        seconds: Its length.
        busy_share: Share of all processors' time that was not idle, whoever used it.
        steal_share: Share that the hypervisor gave to others.
    """

    seconds: float = 0.0
    busy_share: float = 0.0
    steal_share: float = 0.0


@contextmanager
def watched() -> Iterator[Usage]:
    """Fill in the usage of the time inside."""
    usage, before, start = Usage(), psutil.cpu_times(), time.perf_counter()
    yield usage
    usage.seconds = time.perf_counter() - start
    spent = [b - a for a, b in zip(before, psutil.cpu_times(), strict=True)]
    fields = dict(zip(before._fields, spent, strict=True))
    total = sum(fields[name] for name in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"))
    usage.busy_share = 1.0 - (fields["idle"] + fields["iowait"]) / total
    usage.steal_share = fields["steal"] / total


@dataclass
class Sides:
    """Executors of one worker and of two, built and warm.

    Args:
        executors: Workers -> executor.
        policies: Those of a round, the same for all.
    """

    executors: Mapping[int, Executor]
    policies: Sequence[Policy]

    def run(self, workers: int, repeat: int) -> list[CandidateRecord]:
        """Evaluate a round's candidates and return their records; `repeat` makes them new ones."""
        executor, records = self.executors[workers], list[CandidateRecord]()
        jobs = [Job(n, policy, "short", repeat=repeat) for n, policy in enumerate(self.policies, start=1)]
        while jobs or len(records) < len(self.policies):
            while jobs and executor.free:
                executor.submit(jobs.pop(0))
            records += executor.collect()
        return records


def worker_rows(steps: int = STEPS, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Return the rows of all rounds; in each, all sides take their turn."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, _sides(Path(folder), steps) as sides, _trainers() as trainers:
        for number in range(-1, rounds):
            for workers in COUNTS if number % 2 else reversed(COUNTS):
                rows.append({"round": number, **_of_executor(sides, workers, number + 1)})
                rows.append({"round": number, **_of_plain_training(trainers, workers, steps)})
    return [row for row in rows if row["round"] >= 0]


def _of_executor(sides: Sides, workers: int, repeat: int) -> dict[str, Any]:
    with watched() as usage:
        records = sides.run(workers, repeat)
    ours = sum(r.cpu_seconds for r in records) / (usage.seconds * (psutil.cpu_count() or 1))
    latency = sum(float((r.evaluation or {}).get("seconds", {}).get("latency", 0.0)) for r in records)
    return {
        "side": "executor",
        "workers": workers,
        "candidates": len(records),
        "failed": sum(r.state != "complete" for r in records),
        "seconds": rounded(usage.seconds),
        "candidates_per_s": rounded(len(records) / usage.seconds),
        "own_cpu_share": rounded(ours),
        "machine_busy_share": rounded(usage.busy_share),
        "steal_share": rounded(usage.steal_share),
        "measuring_s": rounded(latency),
        "load_average": rounded(psutil.getloadavg()[0]),
    }


def _of_plain_training(trainers: ProcessPoolExecutor, workers: int, steps: int) -> dict[str, Any]:
    with watched() as usage:
        cpu = sum(trainers.map(train_alone, [steps] * workers))
    return {
        "side": "plain training",
        "workers": workers,
        "candidates": workers,
        "seconds": rounded(usage.seconds),
        "candidates_per_s": rounded(workers / usage.seconds),
        "own_cpu_share": rounded(cpu / (usage.seconds * (psutil.cpu_count() or 1))),
        "machine_busy_share": rounded(usage.busy_share),
        "steal_share": rounded(usage.steal_share),
        "load_average": rounded(psutil.getloadavg()[0]),
    }


def train_alone(steps: int) -> float:
    """Train the dense network for some steps on one thread, and return the CPU seconds."""
    torch.set_num_threads(1)
    task, model = _network()
    start = time.process_time()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    x, labels = task.data.x[:BATCH], task.data.labels[:BATCH]
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), labels))
        optimizer.step()
    return time.process_time() - start


@cache
def _network() -> tuple[ClassificationTask, nn.Module]:
    task = load_task(FACTORY, {}, base=BASE)
    assert isinstance(task, ClassificationTask)
    return task, task.build_model().train()


@contextmanager
def _sides(folder: Path, steps: int) -> Iterator[Sides]:
    setups = {workers: setup_of(folder / str(workers), workers, steps) for workers in COUNTS}
    bench = Workbench(setups[1])
    executors = {workers: make_executor(setup, bench) for workers, setup in setups.items()}
    try:
        yield Sides(executors, [bench.space.policy_of(bench.space.uniform(s)) for s in SPARSITIES])
    finally:
        for executor in executors.values():
            executor.close()


@contextmanager
def _trainers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(max(COUNTS), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def setup_of(folder: Path, workers: int, steps: int) -> Setup:
    """Return a run of ResNet-14 on digits with one training thread a worker."""
    config = RunConfig.model_validate(
        {
            "task": FACTORY,
            "search": {"workers": workers},
            "recovery": {"short_steps": steps, "batch_size": BATCH},
            "executor": {"threads": 1},
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Setup(config, TaskRef(config.task, {}, BASE), BASE, folder)


def summary_of_workers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the best of the rounds, and what plain training gains on this machine."""
    found: dict[str, Any] = {"rounds": len({row["round"] for row in rows})}
    for side in ("executor", "plain training"):
        best = {
            workers: max(
                (row for row in rows if row["side"] == side and row["workers"] == workers),
                key=lambda row: float(row["candidates_per_s"]),
            )
            for workers in COUNTS
        }
        one, two = (best[workers] for workers in COUNTS)
        found[side.replace(" ", "_")] = {
            "candidates_per_s": {str(workers): row["candidates_per_s"] for workers, row in best.items()},
            "gain": rounded(two["candidates_per_s"] / one["candidates_per_s"], 3),
            "own_cpu_share": {str(workers): row["own_cpu_share"] for workers, row in best.items()},
            "machine_busy_share": {str(workers): row["machine_busy_share"] for workers, row in best.items()},
        }
    return found
