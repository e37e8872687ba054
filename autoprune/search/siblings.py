"""Task's smaller architectures -> trained from scratch and measured: what pruning has to be better than.

A sibling gets as many optimizer steps as a finalist gets in full, but starts from random weights; its training is not
preceded by that of the dense model, which pruning takes as given.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import torch
from torch import nn

from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import compare, intervals, measure_cost
from autoprune.evaluation.types import Evaluation
from autoprune.policy import Policy, candidate_seed
from autoprune.pruning import fine_tune, recalibrate
from autoprune.records import CONTROL, CandidateRecord, RecordStore, candidate_id
from autoprune.runtimes import open_session
from autoprune.search.controls import FROM_SCRATCH
from autoprune.search.executors.base import Job
from autoprune.search.objectives import values_of
from autoprune.search.setup import blank_record, failure_of
from autoprune.search.workbench import Workbench, training_threads
from autoprune.tasks.failures import user_code
from autoprune.tasks.protocol import RecoverContext

SHARES = (0.25, 0.5)

Factory = Callable[[float], nn.Module | None]


def train_siblings(
    bench: Workbench, records: Sequence[CandidateRecord], shares: Sequence[float] = SHARES
) -> list[CandidateRecord]:
    """Train, measure and record the smaller siblings that the task names and no record holds; none where it has none.

    The task's optional method `sibling(share)` returns a fresh, untrained model with about that share of the dense
    model's width, or None. Its record has an empty policy, fidelity `full` and the origin `control:from_scratch`.

    Args:
        bench: The driver's workbench.
        records: Of the run so far.
        shares: Fractions in (0, 1) of the width.
    """
    factory: Factory | None = getattr(bench.user_task, "sibling", None)
    if factory is None:
        return []
    known, found = {record.id for record in records}, list[CandidateRecord]()
    first = max((record.number for record in records), default=0) + 1
    for share in shares:
        record = _blank(bench, share, first + len(found))
        if record.id in known:
            continue
        with training_threads(bench.config):
            measured = _measured(bench, record, factory, share)
        if measured is not None:
            RecordStore(bench.setup.directory).write(measured)
            found.append(measured)
    return found


def _blank(bench: Workbench, share: float, number: int) -> CandidateRecord:
    digest = hashlib.sha256(f"sibling:{share:.6f}".encode()).hexdigest()
    job = Job(number, Policy({}), "full", {"share": share}, origin=f"{CONTROL}{FROM_SCRATCH}")
    seed = candidate_seed(bench.config.search.seed, digest)
    return replace(blank_record(bench.setup, job), id=candidate_id(digest, "full"), digest=digest, seed=seed)


def _measured(bench: Workbench, record: CandidateRecord, factory: Factory, share: float) -> CandidateRecord | None:
    """Return the record of a sibling, failed where its training or measurement fails; None where there is none."""
    started, cpu = time.monotonic(), time.process_time()
    try:
        model = _build(factory, share, record.seed)
        if model is None:
            return None
        _train(bench, model, record.seed)
        evaluation = _evaluate(bench, model, record.seed)
        values = values_of(bench.objectives, evaluation, bench.setup.dense_ms)
        record = replace(record, state="complete", values=values, evaluation=asdict(evaluation))
    except CandidateError as error:
        record = replace(record, failure=failure_of(error.reason, error.stage, str(error)))
    except TaskError as error:
        record = replace(record, failure=failure_of("error", "build", str(error)))
    return replace(record, seconds=time.monotonic() - started, cpu_seconds=time.process_time() - cpu)


def _build(factory: Factory, share: float, seed: int) -> nn.Module | None:
    """Return the untrained model; torch's global state, which draws its weights, is seeded inside and restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with user_code(f"task.sibling({share:g})"):
            return factory(share)


def _train(bench: Workbench, model: nn.Module, seed: int) -> None:
    """Train at the highest learning rate of the space: random weights take larger steps than trained ones."""
    budget = bench.config.recovery
    context = RecoverContext(
        steps=budget.full_steps,
        lr=bench.space.spec.strategy.learning_rate.high,
        batch_size=budget.batch_size,
        device=bench.devices[0],
        dtype=torch.float32,
        generator=torch.Generator().manual_seed(seed),
        seed=seed,
    )
    if budget.full_steps > 0:
        fine_tune(model, bench.task, context)
        model.cpu()
    recalibrate(model, bench.task, limit=budget.proxy_images, seed=seed)


def _evaluate(bench: Workbench, model: nn.Module, seed: int) -> Evaluation:
    """Measure on all targets; the dense model's graph does not fit another architecture, so that it is exported."""
    task, rounds = bench.task, bench.config.latency.rounds
    examples = {t.name: task.example_inputs(batch_size=t.batch) for t in bench.targets}
    sessions = {t.name: open_session(model, t, examples[t.name]) for t in bench.targets}
    scored = bench.score(sessions[bench.targets[0].name])
    return Evaluation(
        {"val": intervals(task, scored, seed=seed)},
        {t.name: bench.time(sessions[t.name], t, seed=seed, rounds=rounds) for t in bench.targets},
        measure_cost(model, bench.example),
        compare(task, scored, bench.dense.scored, seed=seed),
    )
