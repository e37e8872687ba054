"""What an engine costs beside the evaluations: our Ray engine and Ray Tune, on one Ray session, two workers each.

All evaluate 100 candidates that Optuna's random sampler draws from the same space. Ours and Tune's class API with
reused actors do the same work in them: they build the task once a worker, evaluate next to nothing and write a record.
Tune's function API starts a process a trial; it is spared the task, and returns at once. What the task's evaluation and
the writing of its record take, the latter as measured beforehand in the driver, counts for neither. All files lie in
memory where the system has a place for that. The time begins on a running Ray session.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
from optuna.samplers import RandomSampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from autoprune.config.model import RunConfig
from autoprune.predictor.cost import CostModel
from autoprune.search.context import SamplerContext
from autoprune.search.executors.base import Job
from autoprune.search.executors.ray_pool import RayPool
from autoprune.search.loop import Phase, Searcher, run_loop
from autoprune.search.samplers import SAMPLERS
from autoprune.search.setup import Setup
from autoprune.search.study import quiet_optuna
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef
from benchmarks.common import ROOT, rounded

ENGINES = ("ours", "tune_class_reused", "tune_function")
RUNS = {"ours": 5, "tune_class_reused": 5, "tune_function": 1}
OVERHEAD = "overhead_ms_a_candidate"
CANDIDATES = 100
WARM_UP = 3
WRITTEN = 20
WORKERS = 2
SEED = 0
MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Ended:
    """One candidate's end.

    Args:
        at: Unix seconds.
        seconds: How long the evaluation itself took.
    """

    at: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """One engine's candidates.

    Args:
        began: Unix seconds at which the engine was asked.
        ended: One a candidate.
        writing_s: What it takes to write a record.
    """

    began: float
    ended: Sequence[Ended]
    writing_s: float = 0.0

    def figures(self, workers: int) -> dict[str, Any]:
        """Return what the engine cost beside evaluations and records, which `workers` share.

        The overhead is that of the eight tenths in the middle, when all workers are at work; with the start, it is that
        of the whole run.
        """
        ended = sorted(self.ended, key=lambda e: e.at)
        edge = len(ended) // 10
        middle = ended[edge + 1 : len(ended) - edge]
        wall = ended[-1].at - self.began
        whole = wall - sum(e.seconds + self.writing_s for e in ended) / workers
        steady = middle[-1].at - ended[edge].at - sum(e.seconds + self.writing_s for e in middle) / workers
        return {
            "candidates": len(ended),
            "wall_s": rounded(wall),
            "start_s": rounded(ended[0].at - ended[0].seconds - self.began),
            "evaluation_ms": rounded(1e3 * sum(e.seconds for e in ended) / len(ended)),
            "writing_ms": rounded(1e3 * self.writing_s),
            OVERHEAD: rounded(1e3 * steady / len(middle)),
            "overhead_with_start_ms_a_candidate": rounded(1e3 * whole / len(ended)),
        }


class TunedCandidate(tune.Trainable):
    """Tune's class API: the workbench is built once an actor, and a trial evaluates one candidate."""

    def setup(self, config: dict[str, Any], setup: Setup | None = None) -> None:
        """Build the workbench."""
        assert setup is not None
        self._bench = Workbench(setup)
        self._params = dict(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate."""
        self._params = dict(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate it."""
        record = self._bench.run(Job(1, self._bench.space.policy_of(self._params), "proxy"))
        return {**record.values, "seconds": record.seconds, "at": time.time(), "done": True}


def tuned_function(config: dict[str, Any]) -> None:
    """Tune's function API: return at once."""
    tune.report({"accuracy": 0.5, "macs": float(len(config)), "seconds": 0.0, "at": time.time()})


def overhead_row(engine: str, candidates: int = CANDIDATES) -> dict[str, Any]:
    """Return the median row of an engine's runs, each measured in a process and a Ray session of its own."""
    rows = []
    for _ in range(RUNS[engine]):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure_engine, engine, candidates).result())
    rows.sort(key=lambda row: float(row[OVERHEAD]))
    return {**rows[len(rows) // 2], "of_all_runs": [row[OVERHEAD] for row in rows]}


def measure_engine(engine: str, candidates: int) -> dict[str, Any]:
    """Return the row of an engine; its Ray session is started before its time counts."""
    runs: Mapping[str, Callable[[Setup, int], Run]] = {
        "ours": run_ours,
        "tune_class_reused": run_tune_class,
        "tune_function": run_tune_function,
    }
    load = psutil.getloadavg()[0]
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, _ray(), quiet_optuna():
        run = runs[engine](setup_of(Path(folder)), candidates)
    return {"engine": engine, "workers": WORKERS, "load_average_before": rounded(load), **run.figures(WORKERS)}


def run_ours(setup: Setup, candidates: int) -> Run:
    """Evaluate by the loop and the Ray engine."""
    bench = _driver(setup)
    context, writing_s = context_of(bench, candidates), seconds_to_write(bench)
    began = time.time()
    pool = RayPool(setup)
    try:
        searcher = Searcher(Phase(context, SAMPLERS["random"](context)), [])
        ended = [Ended(time.time(), r.seconds) for r in run_loop(searcher, pool, lambda: None, candidates)]
    finally:
        pool.close()
    return Run(began, ended, writing_s)


def seconds_to_write(bench: Workbench) -> float:
    """Return the median time that an evaluation takes beyond what its record states: that of writing it."""
    took = []
    for number in range(WARM_UP + WRITTEN):
        began = time.perf_counter()
        record = bench.run(Job(number, bench.space.smallest(), "proxy"))
        took.append(time.perf_counter() - began - record.seconds)
    return statistics.median(took[WARM_UP:])


def run_tune_class(setup: Setup, candidates: int) -> Run:
    """Evaluate by Tune's class API; its actors are reused."""
    return _by_tune(tune.with_parameters(TunedCandidate, setup=setup), setup, candidates, reuse=True)


def run_tune_function(setup: Setup, candidates: int) -> Run:
    """Evaluate by Tune's function API, a process a trial."""
    return _by_tune(tuned_function, setup, candidates, reuse=False)


def _by_tune(trainable: Any, setup: Setup, candidates: int, *, reuse: bool) -> Run:
    bench = _driver(setup)
    objectives, writing_s = list(setup.config.objectives), seconds_to_write(bench) if reuse else 0.0
    search = OptunaSearch(
        bench.space.distributions(), metric=objectives, mode=["max", "min"], sampler=RandomSampler(seed=SEED)
    )
    began = time.time()
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=candidates, max_concurrent_trials=WORKERS, reuse_actors=reuse
        ),
        run_config=tune.RunConfig(
            storage_path=str(setup.directory / "tune"),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    results = tuner.fit()
    metrics = [results[index].metrics or {} for index in range(len(results))]
    return Run(began, [Ended(float(m["at"]), float(m["seconds"])) for m in metrics], writing_s)


def _driver(setup: Setup) -> Workbench:
    return Workbench(replace(setup, directory=setup.directory / "driver"))


def context_of(bench: Workbench, candidates: int) -> SamplerContext:
    """Return what the sampler is told."""
    names = [group.name for group in bench.space.groups]
    return SamplerContext(
        space=bench.space,
        seed=SEED,
        evaluations=candidates,
        objectives=bench.objectives,
        metrics=tuple(bench.task.metrics),
        constraints=None,
        costs=CostModel.of(bench.model, bench.groups, bench.example, names),
        workers=WORKERS,
        fidelity="proxy",
    )


def setup_of(folder: Path) -> Setup:
    """Return a run whose evaluations take next to nothing."""
    config = RunConfig.model_validate(
        {
            "task": "scaling_task.py:make_task",
            "search": {"workers": WORKERS, "sampler": "random"},
            "recovery": {"short_steps": 0, "proxy_images": 64, "val_images": 64},
            "latency": {"targets": ["torch-eager-fp32-b1-t1"], "rounds": 5},
            "objectives": ["accuracy", "macs"],
            "executor": {"kind": "ray", "threads": 1},
        }
    )
    base = ROOT / "benchmarks"
    (folder / "run").mkdir()
    return Setup(config, TaskRef(config.task, {}, base), base, folder / "run")


@contextmanager
def _ray() -> Iterator[None]:
    """Start a Ray session of this machine, and end it."""
    ray.init(
        address="local",
        num_cpus=WORKERS,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def summary_of_engines(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return each engine's overhead, and how many times ours the others' is."""
    keys = (OVERHEAD, "overhead_with_start_ms_a_candidate", "start_s", "wall_s")
    found: dict[str, Any] = {
        row["engine"]: {**{key: row[key] for key in keys}, "of_all_runs": row.get("of_all_runs", [])} for row in rows
    }
    if "ours" in found:
        for row in found.values():
            row["times_ours"] = rounded(row[keys[0]] / found["ours"][keys[0]], 3)
            row["times_ours_with_start"] = rounded(row[keys[1]] / found["ours"][keys[1]], 3)
    return found
