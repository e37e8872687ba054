"""Finalists -> measured models: each exported as it will be emitted, and measured end to end on every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safetensors.torch import load as load_tensors
from torch import nn

from autoprune.errors import AutopruneError
from autoprune.evaluation import intervals, measure_latency, score
from autoprune.evaluation.types import Evaluation, Latency
from autoprune.groups import rebuild
from autoprune.groups.architecture import architecture_from_json
from autoprune.groups.types import ArchitecturePlan
from autoprune.pareto import non_dominated, thin
from autoprune.records import CandidateRecord, RecordStore
from autoprune.runtimes import OnnxSession, Session, Target, emit_onnx, open_session
from autoprune.search.objectives import Constraints, minimised, values_of
from autoprune.search.workbench import PLAN_FILE, WEIGHTS_FILE, Workbench, evaluation_of
from autoprune.storage import parse_json
from autoprune.tasks.protocol import Evaluated

PARITY_BATCH = 2
SAME_LATENCY = 0.02
DOMINATED_BY = 0.95


@dataclass(frozen=True)
class Deployed:
    """A model in the forms that are emitted.

    Args:
        model: The torch module.
        onnx: The bytes of its ONNX file.
        sessions: Target -> the form that runs there.
    """

    model: nn.Module
    onnx: bytes
    sessions: Mapping[str, Session]


@dataclass(frozen=True)
class Measured:
    """A finalist with what was measured on its emitted forms.

    Args:
        record: Its record at full recovery.
        deployed: Its forms.
        architecture: What it is.
        val: Target -> scores on val.
        evaluation: Quality on val, latency, cost.
        values: Objective -> value.
        violations: Expression -> by how much it is violated; <= 0 where it holds.
    """

    record: CandidateRecord
    deployed: Deployed
    architecture: ArchitecturePlan
    val: Mapping[str, Evaluated]
    evaluation: Evaluation
    values: Mapping[str, float]
    violations: Mapping[str, float]

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return all(v <= 0.0 for v in self.violations.values())


def deploy_all(bench: Workbench, model: nn.Module) -> Deployed:
    """Export a model as one ONNX file and open it, and the module itself, on the run's targets.

    Raises:
        CandidateError: The export fails or computes something else than the module.
    """
    payload = emit_onnx(model, bench.task.example_inputs(batch_size=PARITY_BATCH), template=bench.template)
    sessions = {t.name: _session(bench, model, payload, t) for t in bench.targets}
    return Deployed(model, payload, sessions)


def load_finalist(bench: Workbench, record: CandidateRecord) -> tuple[nn.Module, ArchitecturePlan]:
    """Return the recovered model that a full record keeps, with its architecture.

    Raises:
        StorageError: A file of the record is missing or altered.
        ArtifactError: The architecture does not fit the dense model.
    """
    store = RecordStore(bench.setup.directory)
    architecture = architecture_from_json(parse_json(store.read_file(record.id, PLAN_FILE)))
    model = rebuild(bench.model, architecture)
    model.load_state_dict(load_tensors(store.read_file(record.id, WEIGHTS_FILE)), strict=True)
    return model.eval(), architecture


def measure_finalists(
    bench: Workbench, dense: Deployed, finalists: Sequence[CandidateRecord], constraints: Constraints
) -> tuple[list[Measured], list[str]]:
    """Return the measured finalists and one line for each that could not be exported or loaded.

    What another finalist beats clearly (better, and faster by more than 5%) is not exported.
    """
    measured, failures = list[Measured](), list[str]()
    for record in _worth_exporting(bench, finalists):
        try:
            model, architecture = load_finalist(bench, record)
            deployed = deploy_all(bench, model)
            measured.append(_measure(bench, dense, deployed, record, architecture, constraints))
        except AutopruneError as error:
            failures.append(f"{record.id}: {error}")
    return measured, failures


def choose_front(bench: Workbench, measured: Sequence[Measured], dense: Mapping[str, float]) -> list[Measured]:
    """Return the front: non-dominated by measured values, dense model included, and told apart by latency.

    Models whose last objective differs by at most 2% count as one; the better of them stays. Feasible models come
    alone where there are any.
    """
    pool = [m for m in measured if m.feasible] or list(measured)
    if not pool:
        return []
    values = minimised(bench.objectives, [*(m.values for m in pool), dense])
    front = [m for m, on in zip(pool, non_dominated(values), strict=False) if on]
    if len(bench.objectives) == 2 and front:
        rows = minimised(bench.objectives, [m.values for m in front])
        cost = [m.values[bench.objectives[-1].name] for m in front]
        front = [front[i] for i in thin(cost, rows[:, 0], relative_cost=SAME_LATENCY)]
    return sorted(front, key=lambda m: minimised(bench.objectives, [m.values])[0].tolist())


def _session(bench: Workbench, model: nn.Module, payload: bytes, target: Target) -> Session:
    if target.runtime != "onnxruntime":
        return open_session(model, target, bench.task.example_inputs(batch_size=target.batch))
    outputs = model(*bench.example.args, **bench.example.kwargs)
    return OnnxSession(payload, threads=target.threads, outputs=outputs)


def _measure(
    bench: Workbench,
    dense: Deployed,
    deployed: Deployed,
    record: CandidateRecord,
    architecture: ArchitecturePlan,
    constraints: Constraints,
) -> Measured:
    val = {name: score(bench.task, session, "val") for name, session in deployed.sessions.items()}
    first = bench.targets[0].name
    before = evaluation_of(record)
    evaluation = Evaluation(
        quality={"val": intervals(bench.task, val[first], seed=record.seed)},
        latency={t.name: time_against(bench, deployed, dense, t, record.seed) for t in bench.targets},
        cost=before.cost,
    )
    values = values_of(bench.objectives, evaluation, bench.setup.dense_ms)
    quality = {k: v.value for k, v in evaluation.quality["val"].items()}
    violations = constraints.violations(quality, values.get("latency_ms", evaluation.latency[first].ms))
    return Measured(record, deployed, architecture, val, evaluation, values, violations)


def time_against(bench: Workbench, deployed: Deployed, dense: Deployed, target: Target, seed: int) -> Latency:
    """Return the latency of an emitted form, interleaved with the dense model's emitted form."""
    inputs = bench.dense.inputs[target.name]
    settings = bench.latency_settings(target, seed=seed, rounds=bench.config.latency.final_rounds)
    return measure_latency(
        deployed.sessions[target.name].call(inputs), dense.sessions[target.name].call(inputs), settings
    )


def _worth_exporting(bench: Workbench, finalists: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Drop finalists that another one beats on every objective, on the last by more than the noise of latency."""
    if not finalists:
        return []
    values = minimised(bench.objectives, [r.values for r in finalists])
    slack = np.zeros(values.shape[1])
    slack[-1] = -np.log(DOMINATED_BY) if bench.objectives[-1].scale == "log" else 0.0
    return [
        record
        for i, record in enumerate(finalists)
        if not any(_beats(values[j], values[i], slack) for j in range(len(values)))
    ]


def _beats(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], slack: npt.NDArray[np.float64]) -> bool:
    return bool((one + slack <= other).all() and (one < other).any())
