"""Finalists -> measured models: each exported as it will be emitted, and measured end to end on every target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from safetensors.torch import load as load_tensors
from torch import nn

from autoprune.evaluation import intervals, measure_latency, pool_passes, score
from autoprune.evaluation.types import Evaluation, Latency
from autoprune.groups import rebuild
from autoprune.groups.architecture import architecture_from_json
from autoprune.groups.types import ArchitecturePlan
from autoprune.pareto import non_dominated, thin
from autoprune.records import CandidateRecord, RecordStore
from autoprune.runtimes import OnnxSession, Session, Target, emit_onnx, open_session
from autoprune.search.losses import Losses
from autoprune.search.objectives import Constraints, minimised, values_of
from autoprune.search.workbench import PLAN_FILE, WEIGHTS_FILE, Workbench, evaluation_of
from autoprune.storage import parse_json
from autoprune.tasks.protocol import Evaluated

PARITY_BATCH = 2
SAME_LATENCY = 0.02
PASSES = 5
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Deployed:
    """A model in the forms that are emitted.

    Args:
        model: The torch module.
        onnx: The bytes of its ONNX file; None where no target needs it.
        sessions: Target -> the form that runs there.
    """

    model: nn.Module
    onnx: bytes | None
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


@dataclass(frozen=True)
class _Opened:
    """A finalist that is deployed and scored, not yet timed."""

    record: CandidateRecord
    deployed: Deployed
    architecture: ArchitecturePlan
    val: Mapping[str, Evaluated]


def deploy_all(bench: Workbench, model: nn.Module) -> Deployed:
    """Open a model on the run's targets, exported as one ONNX file where one of them needs it.

    Raises:
        CandidateError: The export fails or computes something else than the module.
    """
    payload = None
    if any(t.runtime == "onnxruntime" for t in bench.targets):
        example = bench.task.example_inputs(batch_size=PARITY_BATCH)
        payload = emit_onnx(model, example, template=bench.template)
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
    bench: Workbench,
    dense: Deployed,
    finalists: Sequence[CandidateRecord],
    constraints: Constraints,
    losses: Losses,
) -> list[Measured]:
    """Return the measured finalists; `losses` takes those that cannot be loaded, exported or timed.

    They are timed in turns, several passes through all of them, so that all meet the same states of the host.
    """
    opened: list[_Opened] = []
    for record in finalists:
        with losses.noting(record.id):
            model, architecture = load_finalist(bench, record)
            deployed = deploy_all(bench, model)
            val = {name: score(bench.task, session, "val") for name, session in deployed.sessions.items()}
            opened.append(_Opened(record, deployed, architecture, val))
    passes: dict[str, dict[str, list[Latency]]] = {o.record.id: {t.name: [] for t in bench.targets} for o in opened}
    for turn in range(PASSES):
        for one in [o for o in opened if o.record.id in passes]:
            times = passes.pop(one.record.id)
            with losses.noting(one.record.id):
                for target in bench.targets:
                    times[target.name].append(_time(bench, one.deployed, dense, target, turn))
                passes[one.record.id] = times
    measured = []
    for one in [o for o in opened if o.record.id in passes]:
        with losses.noting(one.record.id):
            latency = {name: pool_passes(of_target) for name, of_target in passes[one.record.id].items()}
            measured.append(_measured(bench, one, latency, constraints))
    return measured


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


def _session(bench: Workbench, model: nn.Module, payload: bytes | None, target: Target) -> Session:
    if target.runtime != "onnxruntime" or payload is None:
        return open_session(model, target, bench.task.example_inputs(batch_size=target.batch))
    outputs = model(*bench.example.args, **bench.example.kwargs)
    return OnnxSession(payload, threads=target.threads, outputs=outputs)


def _measured(bench: Workbench, one: _Opened, latency: Mapping[str, Latency], constraints: Constraints) -> Measured:
    first = bench.targets[0].name
    quality = intervals(bench.task, one.val[first], seed=one.record.seed)
    evaluation = Evaluation({"val": quality}, latency, evaluation_of(one.record).cost)
    values = values_of(bench.objectives, evaluation, bench.setup.dense_ms)
    latency_ms = values.get("latency_ms", latency[first].ms)
    figures = {k: v.value for k, v in quality.items()} | asdict(evaluation.cost)
    violations = constraints.violations(figures, latency_ms)
    return Measured(one.record, one.deployed, one.architecture, one.val, evaluation, values, violations)


def _time(bench: Workbench, deployed: Deployed, dense: Deployed, target: Target, turn: int) -> Latency:
    """Return one pass of the latency of an emitted form, interleaved with the dense model's emitted form."""
    inputs = bench.dense.inputs[target.name]
    rounds = max(MIN_ROUNDS, bench.config.latency.final_rounds // PASSES)
    settings = bench.latency_settings(target, seed=turn, rounds=rounds)
    return measure_latency(
        deployed.sessions[target.name].call(inputs), dense.sessions[target.name].call(inputs), settings
    )
