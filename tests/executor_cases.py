"""Every engine by name, and what they are tried with: a run of the task that misbehaves, its jobs, its processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoprune.config.model import RunConfig
from autoprune.policy import Policy, Strategy
from autoprune.records import CandidateRecord
from autoprune.search.executors.base import Executor, Job
from autoprune.search.executors.local import InProcessExecutor, LocalPool
from autoprune.search.setup import Setup
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef

TESTS = Path(__file__).parent
PATIENCE = 240.0
CHILD = "autoprune.search.executors.child"


def in_process(setup: Setup) -> Executor:
    return InProcessExecutor(Workbench(setup))


def pool(setup: Setup) -> Executor:
    return LocalPool(setup, setup.config.search.workers)


def ray(setup: Setup) -> Executor:
    from autoprune.search.executors.ray_pool import RayPool

    return RayPool(setup)


def tune(setup: Setup) -> Executor:
    from autoprune.search.executors.tune import TunePool

    return TunePool(setup)


ENGINES: dict[str, Callable[[Setup], Executor]] = {"in_process": in_process, "pool": pool, "ray": ray, "tune": tune}
SUPERVISED = tuple(name for name in ENGINES if name != "in_process")
ALSO_RAY = ["in_process", "pool", "ray", pytest.param("tune", marks=pytest.mark.slow)]
ALSO_POOL = ["pool", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ray", "tune"))]


def faulty_setup(directory: Path, *, workers: int = 2, args: dict[str, Any] | None = None, **executor: Any) -> Setup:
    """Return a run in a directory of `faulty_task`; `executor` is that section of its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    config = RunConfig.model_validate(
        {
            "name": "faulty",
            "task": "faulty_task.py:make_task",
            "task_args": {"directory": str(directory), **(args or {})},
            "search": {"workers": workers, "seed": 0},
            "recovery": {"short_steps": 4, "val_images": 64, "proxy_images": 32},
            "latency": {"targets": ["torch-eager-fp32-b1-t1"], "rounds": 5},
            "executor": {"threads": 1, "cpus_per_worker": 0.1, **executor},
        }
    )
    return Setup(config, TaskRef(config.task, config.task_args, TESTS), TESTS, directory, dense_ms=1.0)


def job(number: int, *, steps: int | None = None) -> Job:
    """Return a small candidate, a different one for each number; its recovery takes `steps` or the run's default."""
    sparsity = 0.125 * (1 + number % 6)
    return Job(number, Policy({"first": sparsity}, Strategy(recovery_steps=steps or 2 + number)), "short")


def mark(setup: Setup, stage: str, way: str, often: str = "always", *, steps: int | None = None) -> None:
    """Have candidates misbehave, those of so many recovery steps or all of them."""
    name = stage if steps is None else f"{stage}.{steps}"
    (setup.directory / name).write_text(f"{way} {often}")


def gather(engine: Executor, jobs: Iterable[Job]) -> list[CandidateRecord]:
    """Return the records of jobs in the order in which they come back, keeping every worker busy."""
    left, underway, records = list(jobs), 0, list[CandidateRecord]()
    deadline = time.monotonic() + PATIENCE
    while (left or underway) and time.monotonic() < deadline:
        while left and engine.free:
            engine.submit(left.pop(0))
            underway += 1
        found = engine.collect()
        underway -= len(found)
        records += found
    return records


def until(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Wait for a condition, which must come to hold within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(0.05)


def worker_processes() -> list[psutil.Process]:
    """Return the living processes that evaluate candidates and were started with this process's `TMPDIR`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            is_worker = CHILD in " ".join(process.info["cmdline"] or ())
            if is_worker and process.environ().get("TMPDIR") == os.environ["TMPDIR"]:
                found.append(process)
    return found


def living_in(session: int) -> list[int]:
    """Return the process ids of a session, those that have ended left out."""
    found = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def own_children() -> set[int]:
    """Return the living processes below this one."""
    children = psutil.Process().children(recursive=True)
    return {c.pid for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE}
