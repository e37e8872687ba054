"""How far the learned predictor is right about candidates that it has not seen, along our own searches.

    python -m benchmarks.predictor [--tasks digits_resnet20 ...] [--seeds 5]

Everything is prequential: a candidate is predicted before it is evaluated, by what was evaluated until then. `ours` is
the prediction that the search itself made. Each member of the ensemble, and the additive prior, is fitted anew for
every batch of the same search, to the same evaluations and features, and predicts the same candidates. `cost_only`
says that the larger candidate is better.

The figures after n evaluations (sensitivities and seeds counted, which nobody predicts) take all predictions up to
there: Kendall's tau; the share of rightly ordered pairs among candidates whose MACs differ by less than 25%; the mean
absolute error in accuracy; and how many measurements lie within the 90% interval, after the one-scalar recalibration
by earlier residuals. `recent` has the ranks of the last 50 evaluations alone. Means over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.predictor.ensemble import MEMBERS, Ensemble
from autoprune.predictor.targets import Target
from autoprune.predictor.trust import Outcome, TrustLog, TrustRound
from autoprune.search.context import SIGNAL
from autoprune.search.encoding import encoder_of
from autoprune.search.genome import Genome
from autoprune.search.observations import Observations, observe
from autoprune.search.sensitivity import additive_model
from autoprune.search.study import quiet_optuna
from benchmarks.common import RESULTS, rounded, write_result
from benchmarks.search_baselines import OwnSearch
from benchmarks.search_quality import OURS, PROXY_BUDGETS
from benchmarks.search_tasks import TASKS, one_thread, search_task

NAME = "predictor"
COUNTS = (50, 100, 200)
WINDOW = 50
COST_ONLY = "cost_only"
PRIOR = "additive_prior"
FIGURES = ("kendall_tau", "same_cost_concordance", "mean_absolute_error", "coverage_90")
RANKS = FIGURES[:2]
METRIC = "accuracy"

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]
Logs = dict[str, list[Outcome]]


def replay(task_name: str, seed: int) -> Logs:
    """Return predictor -> its predictions along one search with what was measured, errors instead of accuracies."""
    search = OwnSearch(search_task(task_name), seed, PROXY_BUDGETS[OURS])
    with one_thread(), quiet_optuna():
        for _ in search.trials():
            if len(search.ledger.points) >= max(COUNTS):
                break
    batches: dict[int, list[int]] = {}
    for trial in search.study.get_trials(deepcopy=False):
        proposal = search.sampler.proposal(trial.number)
        if proposal is not None and METRIC in proposal.predicted:
            batches.setdefault(int(proposal.predicted[METRIC]["at_evaluation"]), []).append(trial.number)
    logs: Logs = {}
    for known, numbers in batches.items():
        for name, means, stds in _predicted(search, known, numbers):
            logs.setdefault(name, []).extend(_outcomes(search, numbers, means, stds))
    return logs


def _predicted(search: OwnSearch, known: int, numbers: Sequence[int]) -> list[tuple[str, Floats, Floats]]:
    """Return (predictor, [n] mean, [n] std) of the error of trials, by what the first `known` trials told."""
    context = search.task.context(search.seed, search.budget)
    genome = Genome(context.space)
    trials = search.study.get_trials(deepcopy=False)
    names = [o.name for o in context.objectives]
    seen = observe(trials[:known], genome, names)
    rows = np.array([genome.encode(trials[n].params) for n in numbers])
    target = Target(context.metrics[0], context.dense[METRIC])
    additive = additive_model(genome, seen, target, (context.dense[METRIC], context.dense[SIGNAL]))
    encode = encoder_of(genome, context, additive)
    told = [search.sampler.proposal(n) for n in numbers]
    own = [(p.predicted[METRIC]["mean"], p.predicted[METRIC]["std"]) for p in told if p is not None]
    ours = (OURS, 1.0 - np.array([m for m, _ in own]), np.array([s for _, s in own]))
    features, wanted = encode(seen.rows), encode(rows)
    members = [(name, *_of_member(name, target, seen, features, wanted, search.seed)) for name in MEMBERS]
    prior = additive.features(rows)[:, 2]
    return [ours, *members, (PRIOR, prior, np.ones_like(prior))]


def _of_member(
    member: str, target: Target, seen: Observations, features: Floats, wanted: Floats, seed: int
) -> tuple[Floats, Floats]:
    """Return [n] mean and standard deviation of the error, as the search turns its own into accuracies."""
    ensemble = Ensemble(seed=seed, names=(member,)).fit(features, target.learned(seen.values[:, 0]))
    found = ensemble.predict(wanted)
    above, below = target.values(found.mean + found.std), target.values(found.mean - found.std)
    return 1.0 - target.values(found.mean), np.abs(above - below) / 2.0


def _outcomes(search: OwnSearch, numbers: Sequence[int], means: Floats, stds: Floats) -> list[Outcome]:
    trials = search.study.get_trials(deepcopy=False)
    # The dense model is the first evaluation and no trial.
    return [
        Outcome(float(mean), float(std), 1.0 - trials[n].values[0], trials[n].values[1], n + 2, "proxy")
        for n, mean, std in zip(numbers, means, stds, strict=True)
    ]


def figures_of(logs: Logs) -> list[Row]:
    """Return one row a predictor and number of evaluations."""
    rows: list[Row] = []
    for count in COUNTS:
        for name, outcomes in logs.items():
            upto = [o for o in outcomes if o.evaluation <= count]
            whole = TrustLog(upto).figures()
            recent = TrustLog([o for o in upto if o.evaluation > count - WINDOW]).figures()
            if whole is None or recent is None:
                continue
            row = {key: getattr(whole, key) for key in FIGURES}
            if name == PRIOR:
                row |= {"mean_absolute_error": None, "coverage_90": None}
            rows.append(_row(name, count, whole, row, {key: getattr(recent, key) for key in RANKS}))
            if name == OURS:
                rows.append(_row(COST_ONLY, count, whole, _cost_only(whole), _cost_only(recent)))
    return rows


def _row(name: str, count: int, whole: TrustRound, figures: Row, recent: Row) -> Row:
    shown = {key: None if value is None else rounded(value) for key, value in figures.items()}
    near = {key: None if value is None else rounded(value) for key, value in recent.items() if key in RANKS}
    return {"predictor": name, "evaluations": count, "predictions": whole.n, **shown, "recent": near}


def _cost_only(found: TrustRound) -> Row:
    ranks = (found.cost_only.kendall_tau, found.cost_only.concordance)
    return dict(zip(RANKS, ranks, strict=True)) | {"mean_absolute_error": None, "coverage_90": None}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return task -> predictor -> evaluations -> means over seeds."""
    summary: dict[str, Any] = {}
    for row in rows:
        place = summary.setdefault(row["task"], {}).setdefault(row["predictor"], {})
        place.setdefault(str(row["evaluations"]), []).append(row)
    for by_name in summary.values():
        for by_count in by_name.values():
            for count, found in by_count.items():
                by_count[count] = {key: _mean([r[key] for r in found]) for key in FIGURES} | {
                    "recent": {key: _mean([r["recent"][key] for r in found]) for key in RANKS}
                }
    return summary


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return rounded(statistics.fmean(known)) if known else None


def stored_rows() -> list[Row]:
    """Return the rows of the present result file, none where there is none."""
    path = RESULTS / f"{NAME}.json"
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for task in arguments.tasks:
        rows: list[Row] = []
        for seed in range(arguments.seeds):
            rows += [{"task": task, "seed": seed, **row} for row in figures_of(replay(task, seed))]
            print(json.dumps([r for r in rows if r["seed"] == seed and r["predictor"] == OURS]), flush=True)
        rows = [*(row for row in stored_rows() if row["task"] != task), *rows]
        write_result(
            NAME,
            command="python -m benchmarks.predictor",
            seeds=range(arguments.seeds),
            rows=rows,
            summary=summarise(rows),
        )


if __name__ == "__main__":
    main()
