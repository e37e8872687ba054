"""How many evaluations a search needs: ours beside Optuna's samplers and sweeps, on trained networks.

    python -m benchmarks.search_quality [--tasks digits_resnet20 ...] [--samplers ours nsga2 ...] [--seeds 5]

Tasks, evaluations and hypervolume are those of `benchmarks.search_tasks`; the samplers those of
`benchmarks.search_baselines`. The target of a task is the mean over seeds of the hypervolume that NSGA-II has after
1,000 evaluations (300 on the recovered task, where an evaluation is a fine-tuning). `evaluations_to_nsga2_1000` is the
number of the first evaluation after which a search's own hypervolume is at least the target, with everything counted
from its first evaluation; null where that is not within its budget. A median over seeds counts null as infinite.

On the recovered task, ours begins with a proxy search of 120 evaluations, which counts in CPU seconds and not in
fine-tunings. CPU seconds are those of the evaluations when they were made, plus those of the sampler.

Finished searches are kept in the cache, so a killed run goes on where it was; the rows of tasks that are not asked for
stay as they are in the result file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import RESULTS, rounded, write_result
from benchmarks.search_runs import Curve, curve_of, curve_path, stored_curve
from benchmarks.search_tasks import Fidelity, SearchTask, search_task

NAME = "search_quality"
OURS = "ours"
RIVAL = "nsga2"
EXACT = 6

PROXY_BUDGETS = {
    "ours": 150,
    "ours_without_predictor": 150,
    "ours_without_seeding": 150,
    "random": 300,
    "stratified": 300,
    "uniform": 50,
    "global_ranking": 80,
    "nsga2": 1000,
    "tpe": 200,
    "gp": 60,
    "nsga2_seeded": 200,
    "tpe_seeded": 200,
}
HARD_BUDGETS = {"ours": 150, "ours_without_predictor": 150, "nsga2": 1000}
SHORT_BUDGETS = {
    "ours": 60,
    "ours_without_predictor": 60,
    "random": 60,
    "stratified": 60,
    "uniform": 50,
    "nsga2": 300,
    "tpe": 60,
}


@dataclass(frozen=True)
class Comparison:
    """What is compared on one task.

    Args:
        task: Name of the task.
        fidelity: How much training a candidate gets.
        budgets: Sampler -> evaluations.
        checkpoints: Evaluations at which the hypervolume is reported.
        target_at: Evaluations of NSGA-II that set the target.
        seeds: Most seeds.
    """

    task: str
    fidelity: Fidelity = "proxy"
    budgets: Mapping[str, int] = field(default_factory=lambda: PROXY_BUDGETS)
    checkpoints: tuple[int, ...] = (50, 100, 200, 400, 1000)
    target_at: int = 1000
    seeds: int = 5

    @property
    def key(self) -> str:
        """Name of the main figure."""
        return f"evaluations_to_nsga2_{self.target_at}"

    @property
    def own_evaluations(self) -> int:
        """Evaluations of ours after whose CPU seconds all are compared."""
        return min(100, self.budgets[OURS])


COMPARISONS: Mapping[str, Comparison] = {
    "digits_resnet20": Comparison("digits_resnet20"),
    "fashion_resnet20": Comparison("fashion_resnet20"),
    "digits_resnet110": Comparison("digits_resnet110", budgets=HARD_BUDGETS, seeds=3),
    "digits_resnet20_per_group": Comparison("digits_resnet20_per_group", budgets=HARD_BUDGETS, seeds=3),
    "digits_resnet20_recovered": Comparison("digits_resnet20", "short", SHORT_BUDGETS, (20, 40, 60, 300), 300, 3),
}

Curves = Mapping[str, Mapping[int, Curve]]
Row = dict[str, Any]


def run(name: str, samplers: Sequence[str], seeds: int) -> tuple[list[Row], dict[str, Any]]:
    """Return rows and summary of one comparison; finished searches are read.

    Args:
        name: A key of `COMPARISONS`.
        samplers: Who is compared; NSGA-II always is, for the target, and so is who has finished all searches before.
        seeds: Number of seeds.
    """
    comparison = COMPARISONS[name]
    task = search_task(comparison.task, comparison.fidelity)
    count = min(seeds, comparison.seeds)
    wanted = {*samplers, RIVAL}
    chosen = [s for s in comparison.budgets if s in wanted or _finished(task, s, comparison.budgets[s], count)]
    curves: dict[str, dict[int, Curve]] = {}
    for sampler in chosen:
        curves[sampler] = {}
        for seed in range(count):
            curves[sampler][seed] = curve_of(task, sampler, seed, comparison.budgets[sampler])
            print(f"{name} {sampler} {seed}: {curves[sampler][seed].hypervolumes[-1]:.4f}", flush=True)
    target = statistics.fmean(_final(curve, comparison.target_at) for curve in curves[RIVAL].values())
    rows = [
        row_of(name, comparison, sampler, seed, target, curve)
        for sampler, by_seed in curves.items()
        for seed, curve in by_seed.items()
    ]
    return rows, summary_of(comparison, target, curves)


def row_of(name: str, comparison: Comparison, sampler: str, seed: int, target: float, curve: Curve) -> Row:
    """Return the figures of one search."""
    reached = curve.evaluations_to(target)
    points = [curve.at(n) for n in comparison.checkpoints]
    return {
        "task": name,
        "fidelity": comparison.fidelity,
        "sampler": sampler,
        "seed": seed,
        "budget": comparison.budgets[sampler],
        "evaluations": len(curve),
        "hypervolume": {str(n): _shown(v) for n, v in zip(comparison.checkpoints, points, strict=True)},
        "final_hypervolume": _shown(curve.hypervolumes[-1]),
        comparison.key: reached,
        "cpu_seconds": rounded(curve.clock[-1]),
        "overhead_cpu_seconds": rounded(sum(curve.overhead_s)),
        "cpu_seconds_to_target": None if reached is None else rounded(curve.clock[reached - 1]),
    }


def summary_of(comparison: Comparison, target: float, curves: Curves) -> dict[str, Any]:
    """Return the figures of one comparison that are quoted."""
    reached = {s: [c.evaluations_to(target) for c in by_seed.values()] for s, by_seed in curves.items()}
    clocks = {
        s: [None if n is None else c.clock[n - 1] for n, c in zip(reached[s], by_seed.values(), strict=True)]
        for s, by_seed in curves.items()
    }
    summary: dict[str, Any] = {
        "fidelity": comparison.fidelity,
        "seeds": len(curves[RIVAL]),
        "target": rounded(target, EXACT),
        comparison.key: {s: spread_of(values) for s, values in reached.items()},
        f"cpu_seconds_to_nsga2_{comparison.target_at}": {s: spread_of(values) for s, values in clocks.items()},
        "hypervolume": {s: _means(comparison, by_seed) for s, by_seed in curves.items()},
    }
    if OURS in curves:
        rival = reached[RIVAL]
        summary["rival_over_ours"] = _ratio(spread_of(rival)["median"], spread_of(reached[OURS])["median"])
        summary["ours_over"] = _ours_over(comparison, curves)
        summary["equal_cpu_seconds"] = _equal_seconds(comparison, curves)
    return summary


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Return median, worst and all of values that are to be small; None is infinite."""
    filled = [math.inf if v is None else float(v) for v in values]
    return {"median": _shown(statistics.median(filled)), "max": _shown(max(filled)), "per_seed": list(values)}


def _finished(task: SearchTask, sampler: str, budget: int, seeds: int) -> bool:
    paths = (curve_path(task, sampler, seed, budget) for seed in range(seeds))
    return all(stored_curve(path) is not None for path in paths)


def _means(comparison: Comparison, by_seed: Mapping[int, Curve]) -> dict[str, Any]:
    """Return evaluations -> mean and standard deviation over seeds, for the checkpoints that every seed reached."""
    out: dict[str, Any] = {}
    for n in comparison.checkpoints:
        found = [v for c in by_seed.values() if (v := c.at(n)) is not None]
        if len(found) == len(by_seed):
            out[str(n)] = _mean_sd(found)
    return out | {"final": _mean_sd([c.hypervolumes[-1] for c in by_seed.values()])}


def _ours_over(comparison: Comparison, curves: Curves) -> dict[str, float]:
    """Return sampler -> our mean hypervolume at `own_evaluations` over the sampler's there, or at its end."""
    n = comparison.own_evaluations
    means = {s: statistics.fmean(_final(c, n) for c in by_seed.values()) for s, by_seed in curves.items()}
    return {s: rounded(means[OURS] / mean) for s, mean in means.items() if mean > 0.0}


def _equal_seconds(comparison: Comparison, curves: Curves) -> dict[str, Any]:
    """Return every sampler's mean hypervolume after the mean CPU seconds that ours takes for `own_evaluations`."""
    n = comparison.own_evaluations
    seconds = statistics.fmean(c.clock[min(n, len(c)) - 1] for c in curves[OURS].values())
    found = {s: statistics.fmean(c.at_seconds(seconds) for c in by_seed.values()) for s, by_seed in curves.items()}
    return {
        "seconds": rounded(seconds),
        "evaluations_of_ours": n,
        "hypervolume": {s: rounded(v) for s, v in found.items()},
    }


def _final(curve: Curve, evaluations: int) -> float:
    return curve.hypervolumes[min(evaluations, len(curve)) - 1]


def _mean_sd(values: Sequence[float]) -> dict[str, float]:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": rounded(statistics.fmean(values)), "sd": rounded(spread)}


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else rounded(above / below)


def _shown(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else rounded(value, EXACT)


def stored() -> tuple[list[Row], dict[str, Any]]:
    """Return rows and summary of the present result file, empty where there is none."""
    path = RESULTS / f"{NAME}.json"
    if not path.is_file():
        return [], {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return document["rows"], document["summary"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--samplers", nargs="+", default=list(PROXY_BUDGETS), choices=list(PROXY_BUDGETS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        rows, summary = run(name, arguments.samplers, arguments.seeds)
        others, told = stored()
        kept = [row for row in others if row["task"] != name]
        path = write_result(
            NAME,
            command="python -m benchmarks.search_quality",
            seeds=range(arguments.seeds),
            rows=[*kept, *rows],
            summary=told | {name: summary},
        )
        print(path.relative_to(RESULTS.parent.parent), json.dumps(summary[COMPARISONS[name].key]), flush=True)


if __name__ == "__main__":
    main()
