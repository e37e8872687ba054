"""Every named strategy at half the MACs, one equal recovery budget, beside torch-pruning's own pruners.

ResNet-20 on Fashion-MNIST. Structured strategies keep at most 50% of the multiply-accumulates, masks of weights 50% of
the weights; `no_*` take out one third of the modules or parameters of their kind. Each candidate has 200 optimizer
steps in all, of which schedules, regularizers and gates spend half before the cut; BatchNorm is then estimated anew.
torch-pruning's pruners come to the same MACs by bisection over their ratio, with the same rounding of widths, steps,
batches and recalibration. Accuracy is of the 10,000 test images, a mean over seeds; its interval is a bootstrap over
the images. What does not beat random channels (`random_local`) beyond that interval is marked.

    python -m benchmarks.strategies [--seeds 3] [--only NAME ...]

What was measured before is kept; several processes may run at a time and share the work.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import nn

from autoprune.axes import EDITS, MASKED, PRESETS
from autoprune.errors import ConfigError
from autoprune.evaluation import count_macs
from autoprune.groups import ModelGroups, find_groups, prepare_model
from autoprune.policy import Amount, Policy, Strategy
from autoprune.pruning import Pruner, Recovery
from autoprune.pruning.grading import Grader
from autoprune.pruning.pipeline import context_of
from autoprune.pruning.sparsifying import Sparsifier
from autoprune.tasks import load_task
from autoprune.tasks.cache import cache_directory
from autoprune.tasks.protocol import Inputs, Task
from benchmarks.common import RESULTS, current_commit, interleaved, known_rows, rounded, write_result
from benchmarks.strategies_peers import PEERS, Budget, pruned_by_peer

NAME = "strategies"
STEPS, BATCH, RATE, CALIBRATION = 200, 64, 0.02, 512
SHARE, ROUND_TO, MODULES = 0.5, 2, 1 / 3
CONTROL = "random_local"
DRAWS = 2000
TIMED_STEPS = 12
COSTS = ("criterion_cpu_seconds", "regularizer_step")
DONE_ELSEWHERE = 1800.0

Row = dict[str, Any]
Array = npt.NDArray[np.float64]


@dataclass
class Bench:
    """The task and its dense network."""

    @cached_property
    def task(self) -> Task:
        """Fashion-MNIST with a trained ResNet-20."""
        return load_task("examples/fashion.py:make_task")

    @cached_property
    def prepared(self) -> tuple[nn.Module, tuple[str, ...]]:
        """The dense network as the engine takes it."""
        return prepare_model(self.task.build_model().eval())

    @cached_property
    def example(self) -> Inputs:
        """Inputs of one image."""
        return self.task.example_inputs()

    @cached_property
    def groups(self) -> ModelGroups:
        """What can be pruned."""
        return find_groups(self.prepared[0], self.example)

    def count(self, model: nn.Module) -> int:
        """Return a network's multiply-accumulates an image."""
        return count_macs(model, self.example)

    def pruner(self, seed: int) -> Pruner:
        """Return a pruner that has no scores yet."""
        model, prepared = self.prepared
        return Pruner(model, self.groups, self.task, seed=seed, prepared=prepared, count=self.count)

    def wrong(self, model: nn.Module) -> npt.NDArray[np.bool_]:
        """Return [images] which test images a network takes for something else."""

        def predict(inputs: Inputs) -> Any:
            with torch.no_grad():
                return model(*inputs.args, **inputs.kwargs)

        model.eval()
        return self.task.evaluate(predict, "test").per_unit["accuracy"].ravel() < 0.5


@dataclass
class Clock:
    """CPU time between the optimizer steps of one pruning, in ms."""

    last: float = 0.0

    def __post_init__(self) -> None:
        self.samples: list[float] = []

    def __call__(self, model: nn.Module, step: int) -> None:
        """Take the time after a step."""
        del model
        now = time.process_time()
        if step > 0 and self.last:
            self.samples.append((now - self.last) * 1e3)
        self.last = now


def amount_of(name: str) -> Amount:
    """Return what a preset is asked to remove."""
    granularity = PRESETS[name].axes["granularity"]
    if granularity in MASKED or granularity == "scale":
        return Amount("sparsity", SHARE, round_to=ROUND_TO)
    if granularity in EDITS and granularity != "depth":
        return Amount("sparsity", MODULES)
    return Amount("macs", SHARE, round_to=ROUND_TO)


def run_preset(bench: Bench, name: str, seed: int) -> Row:
    """Return what one preset gives with one seed."""
    policy = Policy({}, Strategy.of_preset(name, learning_rate=RATE), amount=amount_of(name))
    clock, start = Clock(), time.process_time()
    recovery = Recovery(STEPS, BATCH, CALIBRATION, seed=seed, on_step=clock)
    pruned = bench.pruner(seed).prune(policy, recovery)
    seconds = time.process_time() - start
    half = STEPS // 2 - 1
    row = described(bench, pruned.model, seconds)
    times = {"step_ms_first": _median(clock.samples[:half]), "step_ms_last": _median(clock.samples[half:])}
    return row | times | {"notes": list(pruned.notes)}


def run_peer(bench: Bench, name: str, seed: int) -> Row:
    """Return what one of torch-pruning's pruners gives with one seed."""
    start = time.process_time()
    budget = Budget(STEPS, BATCH, RATE, CALIBRATION, SHARE, ROUND_TO, seed)
    model = pruned_by_peer(name, bench.prepared[0], bench.task, bench.count, budget)
    return described(bench, model, time.process_time() - start) | {"notes": []}


def described(bench: Bench, model: nn.Module, seconds: float) -> Row:
    """Return size and test accuracy of a pruned network."""
    dense = bench.prepared[0]
    total = sum(p.numel() for p in dense.parameters())
    wrong = bench.wrong(model)
    return {
        "macs_share": rounded(bench.count(model) / bench.count(dense)),
        "parameters_share": rounded(sum(p.numel() for p in model.parameters()) / total),
        "nonzero_share": rounded(sum(int(torch.count_nonzero(p)) for p in model.parameters()) / total),
        "accuracy": rounded(1.0 - float(wrong.mean()), 6),
        "cpu_seconds": rounded(seconds, 3),
        "wrong": base64.b64encode(zlib.compress(np.packbits(wrong).tobytes(), 9)).decode(),
        "images": len(wrong),
    }


def unpacked(row: Row) -> Array:
    """Return [images] 1 where the image was classified rightly."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(row["wrong"])), dtype=np.uint8))
    return 1.0 - bits[: row["images"]].astype(np.float64)


def criterion_costs(bench: Bench) -> dict[str, float]:
    """Return criterion -> CPU seconds of scoring the whole dense network once."""
    out = {}
    for criterion in dict.fromkeys(p.axes["criterion"] for p in PRESETS.values()):
        grader = Grader(bench.prepared[0], bench.groups, bench.task, 0)
        start = time.process_time()
        grader.units(criterion, bench.prepared[0], 0)
        out[criterion] = rounded(time.process_time() - start, 3)
    return out


def regularizer_costs(bench: Bench, rounds: int) -> dict[str, float]:
    """Return regularizer -> CPU time of a training step over that without, interleaved; the least of the rounds."""

    def trained(regularizer: str) -> Callable[[], object]:
        strategy = Strategy(scope="local", regularizer=regularizer, learning_rate=RATE)
        policy = Policy({}, strategy, amount=Amount("sparsity", SHARE, round_to=ROUND_TO))
        chooser = bench.pruner(0).chooser(policy)

        def steps() -> float:
            clock = Clock()
            recovery = Recovery(TIMED_STEPS, BATCH, CALIBRATION, on_step=clock)
            Sparsifier(bench.prepared[0], bench.groups, bench.task, chooser).train(context_of(policy, recovery))
            return float(np.median(clock.samples))

        return steps

    names = ("none", "l1", "l2", "group_lasso", "bn_l1", "growing_l2", "max_norm", "hard_concrete")
    samples: dict[str, list[float]] = {name: [] for name in names}
    interleaved({n: _kept(trained(n), samples[n]) for n in names}, repeats=rounds, seed=0)
    return {n: rounded(min(samples[n]) / min(samples["none"])) for n in names}


def _kept(call: Callable[[], Any], into: list[float]) -> Callable[[], object]:
    return lambda: into.append(call())


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return name -> mean over seeds, with intervals, and what differs from random channels."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if "failure" not in row:
            by_name.setdefault(row["name"], []).append(row)
    means = {name: np.mean([unpacked(r) for r in found], axis=0) for name, found in by_name.items()}
    rng, out = np.random.default_rng(0), {}
    for name, found in by_name.items():
        right = means[name]
        low, high = _bootstrap(right, rng)
        entry: dict[str, Any] = {
            "by": found[0]["by"],
            "seeds": len(found),
            "accuracy": rounded(float(right.mean()), 6),
            "accuracy_low": rounded(low, 6),
            "accuracy_high": rounded(high, 6),
            "accuracy_of_seeds": [r["accuracy"] for r in found],
            **{k: _median([r[k] for r in found]) for k in ("macs_share", "parameters_share", "nonzero_share")},
            "cpu_seconds": _median([r["cpu_seconds"] for r in found]),
            "steps_per_second": [_rate([r.get(key) for r in found]) for key in ("step_ms_first", "step_ms_last")],
            "notes": sorted({n for r in found for n in r["notes"]}),
        }
        if CONTROL in means and name != CONTROL:
            difference = right - means[CONTROL]
            lowest, highest = _bootstrap(difference, rng)
            entry |= {
                "over_random": rounded(float(difference.mean()), 6),
                "over_random_low": rounded(lowest, 6),
                "over_random_high": rounded(highest, 6),
                "beats_random": lowest > 0.0,
            }
        out[name] = entry
    return out


def _bootstrap(values: Array, rng: np.random.Generator) -> tuple[float, float]:
    draws = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _rate(times_ms: Sequence[float | None]) -> float | None:
    """Return steps a CPU second."""
    known = [t for t in times_ms if t]
    return rounded(1e3 / float(np.median(known)), 3) if known else None


def _median(values: Sequence[float]) -> float | None:
    return rounded(float(np.median(values))) if values else None


def jobs(seeds: int, only: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return (who, name, seed) in the order in which they are run."""
    names = [("autoprune", name) for name in PRESETS] + [("torch-pruning", name) for name in PEERS]
    return [(by, name, seed) for seed in range(seeds) for by, name in names if not only or name in only]


def _claimed(key: tuple[str, str, int]) -> bool:
    """Tell whether another process has taken a job within the last half hour, and take it where none has."""
    folder = cache_directory() / "benchmarks" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "-".join(map(str, key))
    with FileLock(folder / "claims.lock"):
        if mark.exists() and time.time() - mark.stat().st_mtime < DONE_ELSEWHERE:
            return True
        mark.touch()
        return False


def _save(row: Row | None, settings: Mapping[str, Any], costs: Mapping[str, Any] | None = None) -> None:
    """Add a row, or costs, to the result file, beside those of other processes."""
    with FileLock(cache_directory() / "benchmarks" / f"{NAME}.lock"):
        rows = [r for r in known_rows(NAME) if row is None or _key(r) != _key(row)]
        rows += [] if row is None else [row]
        rows.sort(key=lambda r: (r["seed"], r["by"], r["name"]))
        kept = costs if costs is not None else _known_costs()
        summary = {"settings": dict(settings), "strategies": summarise(rows), **kept}
        seeds = sorted({r["seed"] for r in rows})
        write_result(NAME, command="python -m benchmarks.strategies", seeds=seeds, rows=rows, summary=summary)


def _known_costs() -> dict[str, Any]:
    path = RESULTS / f"{NAME}.json"
    summary = json.loads(path.read_text(encoding="utf-8"))["summary"] if path.is_file() else {}
    return {key: value for key, value in summary.items() if key in COSTS}


def _key(row: Row) -> tuple[str, str, int]:
    return row["by"], row["name"], row["seed"]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--again", action="store_true", help="Run also what is known already.")
    parser.add_argument("--costs", action="store_true", help="Time criteria and regularizers, and no strategy.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench, settings = Bench(), {"steps": STEPS, "batch": BATCH, "learning_rate": RATE, "share": SHARE}
    if given.costs:
        costs = {"criterion_cpu_seconds": criterion_costs(bench), "regularizer_step": regularizer_costs(bench, 15)}
        _save(None, settings, costs)
        return
    done = set() if given.again else {_key(r) for r in known_rows(NAME)}
    for key in jobs(given.seeds, given.only):
        if key in done or _claimed(key):
            continue
        by, name, seed = key
        row: Row = {"by": by, "name": name, "seed": seed, "commit": current_commit()}
        try:
            row |= (run_preset if by == "autoprune" else run_peer)(bench, name, seed)
        except ConfigError as error:
            row["failure"] = str(error)
        _save(row, settings)
        print(json.dumps({k: v for k, v in row.items() if k != "wrong"}), flush=True)


if __name__ == "__main__":
    main()
