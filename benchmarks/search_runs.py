"""One search of a benchmark -> its curve, kept in autoprune's cache folder: what was finished is not made again.

A curve is kept under a digest of the task, the budget and the code that proposed it, so that a change of the code
makes the searches that depend on it anew and leaves the others.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

from autoprune.tasks.cache import cache_directory
from benchmarks.common import ROOT
from benchmarks.search_baselines import OWN, SAMPLERS, Point
from benchmarks.search_tasks import Outcome, SearchTask, hypervolume, one_thread

BASELINE_VERSION = 1
OWN_CODE = (
    "pareto.py",
    "predictor/*.py",
    "search/context.py",
    "search/encoding.py",
    "search/evolution.py",
    "search/expectation.py",
    "search/genome.py",
    "search/infill.py",
    "search/observations.py",
    "search/planner.py",
    "search/prior.py",
    "search/sampler.py",
    "search/scaling.py",
    "search/seeding.py",
    "search/sensitivity.py",
    "search/training.py",
)


@dataclass(frozen=True)
class Curve:
    """What one search found, evaluation by evaluation.

    Args:
        error: [n] error of each evaluation.
        macs_share: [n] its share of the dense MACs.
        seconds: [n] CPU seconds of the evaluation.
        overhead_s: [n] CPU seconds of the sampler before it.
        origin: [n] which part of the sampler proposed it.
    """

    error: tuple[float, ...]
    macs_share: tuple[float, ...]
    seconds: tuple[float, ...]
    overhead_s: tuple[float, ...]
    origin: tuple[str, ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Curve:
        """Return the curve of a search's points."""
        return cls(
            tuple(p.outcome.error for p in points),
            tuple(p.outcome.macs_share for p in points),
            tuple(p.outcome.seconds for p in points),
            tuple(p.overhead_s for p in points),
            tuple(p.origin for p in points),
        )

    def __len__(self) -> int:
        return len(self.error)

    @cached_property
    def hypervolumes(self) -> list[float]:
        """[n] hypervolume after each evaluation."""
        front: list[Outcome] = []
        values: list[float] = []
        for point in zip(self.error, self.macs_share, strict=True):
            if not any(o.error <= point[0] and o.macs_share <= point[1] for o in front):
                front = [o for o in front if o.error < point[0] or o.macs_share < point[1]]
                front.append(Outcome(point[0], 0.0, point[1], 0.0))
                values.append(hypervolume(front))
            else:
                values.append(values[-1])
        return values

    @cached_property
    def clock(self) -> list[float]:
        """[n] CPU seconds of evaluations and sampler up to each evaluation."""
        return list(accumulate(a + b for a, b in zip(self.seconds, self.overhead_s, strict=True)))

    def at(self, evaluations: int) -> float | None:
        """Return the hypervolume after so many evaluations; None where the search made fewer."""
        return self.hypervolumes[evaluations - 1] if evaluations <= len(self) else None

    def at_seconds(self, seconds: float) -> float:
        """Return the hypervolume after so many CPU seconds: that of the whole search where it took less."""
        done = bisect_right(self.clock, seconds)
        return self.hypervolumes[done - 1] if done else 0.0

    def evaluations_to(self, target: float) -> int | None:
        """Return after how many evaluations the hypervolume reached `target`; None where it never did."""
        index = bisect_left(self.hypervolumes, target)
        return index + 1 if index < len(self) else None


def curve_of(task: SearchTask, sampler: str, seed: int, budget: int) -> Curve:
    """Return the curve of a search, made now where it is not kept."""
    path = curve_path(task, sampler, seed, budget)
    known = stored_curve(path)
    if known is not None:
        return known
    with one_thread():
        curve = Curve.of(SAMPLERS[sampler](task, seed, budget))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(curve)), encoding="utf-8")
    temporary.replace(path)
    return curve


def stored_curve(path: Path) -> Curve | None:
    """Return a kept curve; None where there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Curve(**{name: tuple(values) for name, values in document.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def curve_path(task: SearchTask, sampler: str, seed: int, budget: int) -> Path:
    """Return where the curve of a search is kept."""
    code = own_code() if sampler in OWN else f"{BASELINE_VERSION}:{version('optuna')}"
    digest = hashlib.sha256(f"{task.setting}:{task.space.spec!r}:{code}:{budget}".encode()).hexdigest()[:16]
    name = f"{task.name}-{task.fidelity}-{sampler}-{seed}-{digest}.json"
    return cache_directory() / "benchmarks" / "curves" / name


@cache
def own_code() -> str:
    """Return the digest of the code that our sampler consists of."""
    digest = hashlib.sha256()
    package = ROOT / "autoprune"
    for path in sorted({p for pattern in OWN_CODE for p in package.glob(pattern)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()
