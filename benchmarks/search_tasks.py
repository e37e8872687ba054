"""Benchmark tasks of the search: a trained network, its space, its costs, and an evaluator that remembers.

Parameters of a space -> error, cross-entropy, share of the dense MACs. An evaluation is a deterministic function of
its parameters, so it is made once a machine and then read from an SQLite file in autoprune's cache folder, which
several processes may use at a time. Every entry keeps the CPU seconds that it took, so that samplers can be compared
at equal CPU time although most evaluations are read.

At fidelity `proxy` the pruned network is recalibrated on 256 images, at `short` fine-tuned for one epoch and then
recalibrated; either is scored by torch on at most 500 validation images, on one thread. The scores that criteria rank
units by are computed once a process and are not counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import nn

from autoprune.groups import ModelGroups, find_groups, prepare_model
from autoprune.pareto import hypervolume as volume
from autoprune.policy import Policy
from autoprune.predictor.cost import CostModel
from autoprune.pruning.pipeline import Pruner, Recovery
from autoprune.search.context import SIGNAL, SamplerContext
from autoprune.search.objectives import Objective
from autoprune.space import LEVEL_PREFIX, BoundSpace, SearchSpace
from autoprune.tasks import ClassificationTask, load_task
from autoprune.tasks.cache import cache_directory
from benchmarks.common import ROOT

Fidelity = Literal["proxy", "short"]
Params = Mapping[str, Any]
Array = npt.NDArray[np.float64]

CRITERIA = ("l1", "l2", "bn_scale", "taylor", "random")
LEVELS = 10
ERROR_LIMIT = 0.5
DECADES = 2.0
CACHE_VERSION = 1
WAIT_S = 120.0


@dataclass(frozen=True)
class Settings:
    """All that an outcome depends on beside the network and the policy.

    Args:
        calibration: Images that recalibrate BatchNorm.
        val_images: Most validation images that score a candidate.
        steps: Optimizer steps at fidelity `short`.
        batch_size: Examples a step.
        learning_rate: Peak of the fine-tuning.
        seed: Of the data order, and of the one draw that the criterion `random` ranks by.
    """

    calibration: int = 256
    val_images: int = 500
    steps: int = 20
    batch_size: int = 64
    learning_rate: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What one evaluation gave.

    Args:
        error: Share of validation images that are classified wrongly, in [0, 1].
        cross_entropy: Mean over the same images, in nats.
        macs_share: MACs over those of the dense network, in (0, 1].
        seconds: CPU seconds that the evaluation took when it was made.
    """

    error: float
    cross_entropy: float
    macs_share: float
    seconds: float


@dataclass(frozen=True)
class TaskSpec:
    """How a benchmark task is made.

    Args:
        example: File of `examples/` that holds the task.
        arguments: Of its factory.
        per_group: Whether every group chooses its own criterion.
        steps: Optimizer steps of one epoch.
    """

    example: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    per_group: bool = False
    steps: int = 20


TASKS: Mapping[str, TaskSpec] = {
    "digits_resnet20": TaskSpec("digits.py", {"depth": 20}),
    "fashion_resnet20": TaskSpec("fashion.py", {"depth": 20}, steps=40),
    "digits_resnet110": TaskSpec("digits.py", {"depth": 110, "epochs": 60}),
    "digits_resnet20_per_group": TaskSpec("digits.py", {"depth": 20}, per_group=True),
}


class SearchTask:
    """A benchmark task at one fidelity.

    Args:
        name: A key of `TASKS`.
        fidelity: How much training a candidate gets.

    Attributes:
        setting: Digest of the network's weights and of all that an outcome depends on beside the policy.
    """

    def __init__(self, name: str, fidelity: Fidelity = "proxy") -> None:
        spec = TASKS[name]
        self.name = name
        self.fidelity: Fidelity = fidelity
        self.settings = Settings(steps=spec.steps)
        task = load_task(f"{spec.example}:make_task", dict(spec.arguments), base=ROOT / "examples")
        assert isinstance(task, ClassificationTask)
        self.task = task
        self.model, self.prepared = prepare_model(self.task.build_model())
        self.groups: ModelGroups = find_groups(self.model, self.task.example_inputs())
        self.space: BoundSpace = search_space(name, spec, fidelity, self.settings).bind(self.groups)
        self.names = tuple(g.name for g in self.space.groups)
        self.costs = CostModel.of(self.model, self.groups, self.task.example_inputs(), self.names)
        self.dense_widths = np.array([[g.width for g in self.space.groups]])
        self.dense_macs = float(self.costs.macs(self.dense_widths)[0])
        self._store = OutcomeStore(cache_directory() / "benchmarks" / f"{name}.sqlite")
        self.setting = _digest({"v": CACHE_VERSION, "fidelity": fidelity, **asdict(self.settings)}, self.model)

    @cached_property
    def pruner(self) -> Pruner:
        """Cuts candidates; made where the first evaluation is not in the cache."""
        pruner = Pruner(self.model, self.groups, self.task, seed=self.settings.seed, prepared=self.prepared)
        for criterion in CRITERIA:
            pruner.scores(criterion)
        return pruner

    def widths(self, params: Sequence[Params]) -> npt.NDArray[np.int64]:
        """Return [n, groups] the widths that parameters choose."""
        grids = [(LEVEL_PREFIX + g.name, self.space.widths[g.name]) for g in self.space.groups]
        return np.array([[grid[int(p[name])] for name, grid in grids] for p in params], dtype=np.int64)

    def macs_share(self, params: Sequence[Params]) -> Array:
        """Return [n] MACs over the dense network's, in (0, 1], without an evaluation."""
        return np.asarray(self.costs.macs(self.widths(params)) / self.dense_macs, dtype=np.float64)

    def evaluate(self, params: Params) -> Outcome:
        """Return the outcome of parameters, from the cache where it was computed before."""
        policy = self.space.policy_of(params)
        key = hashlib.sha256(f"{self.setting}:{policy.digest}".encode()).hexdigest()[:32]
        known = self._store.read(key)
        if known is None:
            known = self.measure(policy, float(self.macs_share([params])[0]))
            self._store.write(key, known)
        return known

    def measure(self, policy: Policy, macs_share: float) -> Outcome:
        """Return the outcome of a policy, computed now."""
        settings = self.settings
        steps = settings.steps if self.fidelity == "short" else 0
        recovery = Recovery(steps, settings.batch_size, settings.calibration, seed=settings.seed)
        pruner = self.pruner
        with one_thread():
            start = time.thread_time()
            pruned = pruner.prune(policy, recovery)
            error, cross_entropy = self.score(pruned.model)
            seconds = time.thread_time() - start
        return Outcome(error, cross_entropy, macs_share, seconds)

    def score(self, model: nn.Module) -> tuple[float, float]:
        """Return error and cross-entropy of a network on the validation images that count."""
        data = self.task.data
        rows = data.rows("val", limit=min(self.settings.val_images, len(data.splits["val"])), seed=0)
        with torch.inference_mode():
            logits = model(data.x[rows])
            labels = data.labels[rows]
            wrong = (logits.argmax(1) != labels).double().mean()
            return float(wrong), float(F.cross_entropy(logits, labels))

    def context(self, seed: int, evaluations: int, *, workers: int = 1, **further: Any) -> SamplerContext:
        """Return what a sampler of `autoprune.search` is told of a search here; values are accuracy and MACs."""
        dense = self.evaluate(self.space.uniform(0.0))
        return SamplerContext(
            space=self.space,
            seed=seed,
            evaluations=evaluations,
            objectives=(Objective("accuracy", "max", "fraction"), Objective("macs", "min", "count", "log")),
            metrics=tuple(self.task.metrics),
            constraints=None,
            costs=self.costs,
            dense={"accuracy": 1.0 - dense.error, "macs": self.dense_macs, SIGNAL: dense.cross_entropy},
            workers=workers,
            fidelity=self.fidelity,
            **further,
        )


@cache
def search_task(name: str, fidelity: Fidelity = "proxy") -> SearchTask:
    """Return the task of a name, made once a process."""
    return SearchTask(name, fidelity)


def search_space(name: str, spec: TaskSpec, fidelity: Fidelity, settings: Settings) -> SearchSpace:
    """Return the space of a task: ten widths a group, from all units to a tenth, and the criteria."""
    recovery = "recalibrate" if fidelity == "proxy" else "fine_tune"
    rate = settings.learning_rate
    return SearchSpace.model_validate(
        {
            "name": name,
            "description": f"The space of the benchmark {name}.",
            "sparsity": {"max": 0.9, "round_to": 1, "max_levels": LEVELS},
            "strategy": {
                "criterion": {"choices": CRITERIA, "per_group": spec.per_group},
                "recovery": {"choices": (recovery,)},
                "learning_rate": {"low": rate, "high": rate},
            },
        }
    )


def scaled(error: npt.ArrayLike, macs_share: npt.ArrayLike) -> Array:
    """Return [n, 2] points whose hypervolume counts: error over 0.5, and log10 of the MACs' share over two decades.

    Both are 0 at best; 1 is an error of 50% and the dense network's MACs. Below 1% of the MACs all counts as 1%.
    """
    cost = (np.log10(np.maximum(np.asarray(macs_share, dtype=np.float64), 10.0**-DECADES)) + DECADES) / DECADES
    return np.column_stack([np.asarray(error, dtype=np.float64) / ERROR_LIMIT, cost])


def hypervolume(outcomes: Sequence[Outcome]) -> float:
    """Return the hypervolume of outcomes to the point (1, 1) of `scaled`, in [0, 1]."""
    if not outcomes:
        return 0.0
    return volume(scaled([o.error for o in outcomes], [o.macs_share for o in outcomes]), (1.0, 1.0))


class OutcomeStore:
    """Key -> outcome in one SQLite file, safe for several processes.

    Args:
        path: The file; made with its folder where missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")  # SQLite does not wait for others while it changes the journal's mode
        with lock, closing(self._open()) as base, base:
            base.execute("PRAGMA journal_mode=WAL")
            base.execute(
                "CREATE TABLE IF NOT EXISTS outcomes (key TEXT PRIMARY KEY, error REAL NOT NULL,"
                " cross_entropy REAL NOT NULL, macs_share REAL NOT NULL, seconds REAL NOT NULL) WITHOUT ROWID"
            )
            self._known = {row[0]: Outcome(*row[1:]) for row in base.execute("SELECT * FROM outcomes")}

    def read(self, key: str) -> Outcome | None:
        """Return the outcome of a key, None where nobody has stored it."""
        if key not in self._known:
            with closing(self._open()) as base:
                row = base.execute("SELECT * FROM outcomes WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            self._known[key] = Outcome(*row[1:])
        return self._known[key]

    def write(self, key: str, outcome: Outcome) -> None:
        """Store an outcome; what another process stored first stays.

        Raises:
            ValueError: A figure is not finite.
        """
        row = (outcome.error, outcome.cross_entropy, outcome.macs_share, outcome.seconds)
        if not all(math.isfinite(value) for value in row):
            raise ValueError(f"An outcome must be finite. Got {outcome}.")
        with closing(self._open()) as base, base:
            base.execute("INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?, ?)", (key, *row))
        self._known[key] = outcome

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=WAIT_S)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _digest(settings: Mapping[str, Any], model: nn.Module) -> str:
    digest = hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
