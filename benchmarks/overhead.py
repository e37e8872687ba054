"""What the search itself costs beside the evaluations: proposing, recording and telling a candidate, and memory.

    python -m benchmarks.overhead [--records 100 1000 10000]

A study of ResNet-20 on digits is filled with made-up records, whose accuracy follows from what each group loses. Then
candidates are proposed one after the other, and each is written as a durable record, told, and added to the run's
study index, which can be rebuilt from the records. CPU and wall milliseconds a candidate are means over 100 candidates
or a tenth of the records, so that a refit of the predictor counts with the share of every candidate that it serves.
Every number of records has a process of its own, whose peak memory is compared with that before the records were there.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.records import CandidateRecord, RecordStore, candidate_id
from autoprune.search.context import SIGNAL
from autoprune.search.samplers import SAMPLERS
from autoprune.search.study import StudyIndex, proposal_of, quiet_optuna
from benchmarks.common import rounded, write_result
from benchmarks.search_baselines import stratified_params
from benchmarks.search_tasks import Params, SearchTask, one_thread, search_task

TASK = "digits_resnet20"
SAMPLED = ("autoprune", "nsga2", "tpe")
SIZES = (100, 1_000, 10_000)
CANDIDATES = 100
SHARE = 10
EVALUATIONS = 20_000
SEED = 0
GOAL_MS = 5.0
IMAGES = 269
PARTS = ("propose", "write_record", "add_to_index", "tell")
GOAL_PARTS = ("propose", "write_record", "tell")
SLOW = {"tpe": 1_000}
"""Sampler -> most records that it is measured with: beyond, it takes minutes."""


@dataclass
class Clock:
    """Adds up CPU and wall seconds by part."""

    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[name] += time.process_time() - cpu
        self.wall[name] += time.perf_counter() - wall


class World:
    """Made-up figures on a real space.

    Args:
        task: Gives space and costs.
        seed: Of the groups' sensitivities and of the noise.
    """

    def __init__(self, task: SearchTask, seed: int) -> None:
        self.task = task
        self.rng = np.random.default_rng(seed)
        self.sensitivity = self.rng.lognormal(0.0, 0.7, len(task.names))
        self.names = [o.name for o in task.context(SEED, EVALUATIONS).objectives]

    def figures(self, params: Params) -> dict[str, float]:
        """Return accuracy, MACs and signal of parameters."""
        widths = self.task.widths([params])
        removed = 1.0 - widths / self.task.dense_widths
        loss = float((self.sensitivity * removed[0] ** 2).sum() + self.rng.normal(0.0, 0.05))
        accuracy = round(IMAGES * 0.98 * math.exp(-max(loss, 0.0))) / IMAGES
        macs = float(self.task.costs.macs(widths)[0])
        return {"accuracy": accuracy, "macs": macs, SIGNAL: 0.1 + max(loss, 0.0)}

    def trial(self) -> FrozenTrial:
        """Return a finished trial somewhere in the space, as a resumed run has it."""
        known = self.task.space.distributions()
        params = stratified_params(self.task, self.rng)
        figures = self.figures(params)
        return create_trial(
            state=TrialState.COMPLETE,
            params=params,
            distributions=known,
            values=[figures[name] for name in self.names],
            user_attrs={SIGNAL: figures[SIGNAL]},
        )


def measure(sampler: str, records: int, candidates: int) -> dict[str, Any]:
    """Return one row: what each part takes a candidate, in a study that holds so many records."""
    task = search_task(TASK)
    world = World(task, SEED)
    context = task.context(SEED, EVALUATIONS)
    before = peak_mib()
    clock = Clock()
    with one_thread(), quiet_optuna(), tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLERS[sampler](context))
        study.add_trials([world.trial() for _ in range(records)])
        store = RecordStore(Path(folder))
        index = StudyIndex(Path(folder) / "study.db", "overhead", ["maximize", "minimize"], world.names)
        index.sync([])
        for _ in range(candidates):
            one_candidate(study, world, clock, store, index)
        index.close()
    return {
        "sampler": sampler,
        "records": records,
        "candidates": candidates,
        "cpu_ms": {name: rounded(1e3 * value / candidates) for name, value in clock.cpu.items()},
        "wall_ms": {name: rounded(1e3 * value / candidates) for name, value in clock.wall.items()},
        "peak_mib": rounded(peak_mib()),
        "peak_mib_of_the_records": rounded(peak_mib() - before),
    }


def one_candidate(study: optuna.Study, world: World, clock: Clock, store: RecordStore, index: StudyIndex) -> None:
    """Propose a candidate, record it, and tell it."""
    with clock.part("propose"):
        trial = study.ask()
        policy = world.task.space.suggest(trial)
    figures = world.figures(trial.params)
    values = {name: figures[name] for name in world.names}
    record = CandidateRecord(
        id=candidate_id(policy.digest, "proxy"),
        number=trial.number,
        state="complete",
        policy=policy.to_json(),
        digest=policy.digest,
        fidelity="proxy",
        seed=SEED,
        values=values,
        evaluation={"quality": {"val": {"cross_entropy": {"value": figures[SIGNAL]}}}},
        proposal=proposal_of(study.get_trials(deepcopy=False)[trial.number]),
    )
    with clock.part("write_record"):
        store.write(record)
    with clock.part("add_to_index"):
        index.add(record)
    with clock.part("tell"):
        trial.set_user_attr(SIGNAL, figures[SIGNAL])
        study.tell(trial, list(values.values()))


def peak_mib() -> float:
    """Return the largest resident memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return sampler -> records -> what a candidate takes in all."""
    summary: dict[str, Any] = {"goal_ms": GOAL_MS, "candidate": {}}
    for row in rows:
        summary["candidate"].setdefault(row["sampler"], {})[str(row["records"])] = {
            "propose_and_record_cpu_ms": rounded(sum(row["cpu_ms"][part] for part in GOAL_PARTS)),
            **{f"{part}_cpu_ms": value for part, value in row["cpu_ms"].items()},
            "all_wall_ms": rounded(sum(row["wall_ms"].values())),
            "peak_mib_of_the_records": row["peak_mib_of_the_records"],
        }
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=list(SIZES))
    arguments = parser.parse_args()
    search_task(TASK)
    rows = []
    for sampler in SAMPLED:
        for records in arguments.records:
            if records > SLOW.get(sampler, records):
                continue
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(measure, (sampler, records, max(CANDIDATES, records // SHARE))))
            print(rows[-1], flush=True)
    write_result("overhead", command="python -m benchmarks.overhead", seeds=[SEED], rows=rows, summary=summarise(rows))


if __name__ == "__main__":
    main()
