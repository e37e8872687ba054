"""One worker's prepared state: task, dense model, groups, space; and how it turns a job into a record."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import save as save_tensors
from torch import nn

from autoprune.config.model import RunConfig
from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import (
    HostGate,
    LatencySettings,
    compare,
    count_macs,
    intervals,
    measure_cost,
    measure_latency,
    score,
)
from autoprune.evaluation.types import Evaluation, Latency
from autoprune.groups import find_groups, prepare_model
from autoprune.groups.architecture import architecture_to_json
from autoprune.groups.types import ModelGroups
from autoprune.policy import Policy, candidate_seed
from autoprune.pruning import PrunedModel, Pruner, Recovery, as_recalibrated
from autoprune.records import CandidateRecord, Fidelity, RecordStore
from autoprune.runtimes import OnnxTemplate, Session, Target, open_session, parse_target
from autoprune.search.executors.base import Job
from autoprune.search.objectives import Objective, error_like, objectives_of, values_of
from autoprune.search.rungs import RungWatch
from autoprune.space import BoundSpace, load_space
from autoprune.tasks import GuardedTask, TaskRef
from autoprune.tasks.failures import describe
from autoprune.tasks.protocol import Evaluated, Inputs, Task

GATE_STEPS = 10
PROBE_UNITS = 512
WEIGHTS_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
_EVALUATION = TypeAdapter(Evaluation)


@dataclass(frozen=True)
class Setup:
    """What travels to a worker; everything else is built there once.

    Args:
        config: The run's configuration.
        task: Reference to the task.
        base: Directory that relative paths of the config start from.
        directory: The run's directory.
        dense_ms: Fixed latency of the dense model on the first target; None while it is being measured.
    """

    config: RunConfig
    task: TaskRef
    base: Path
    directory: Path
    dense_ms: float | None = None


@dataclass
class Dense:
    """The unpruned model deployed on every target, with its scores on val."""

    sessions: dict[str, Session]
    scored: Evaluated
    inputs: dict[str, Inputs] = field(default_factory=dict)


class Workbench:
    """Evaluates candidates of one run.

    Args:
        setup: The run.
        task: The user's task, when it is built already.

    Raises:
        TaskError: The task or its model is unusable.
        GroupError: The model has nothing to prune.
        ConfigError: Space, objectives or constraints do not fit the task.
    """

    def __init__(self, setup: Setup, task: Task | None = None) -> None:
        self.setup = setup
        self.config = setup.config
        self.user_task: Task = task if task is not None else setup.task.load()
        self.task: Task = GuardedTask(self.user_task)
        self.model, self.prepared = prepare_model(self.task.build_model().eval())
        self.example = self.task.example_inputs()
        protect = (*self.config.groups.protect, *self.task.protect)
        self.groups: ModelGroups = find_groups(self.model, self.example, protect=protect, only=self.config.groups.only)
        self.space: BoundSpace = load_space(self.config.space, base=setup.base).bind(self.groups)
        self.objectives: tuple[Objective, ...] = objectives_of(self.config, self.task)
        self.targets: tuple[Target, ...] = tuple(parse_target(t) for t in self.config.latency.targets)
        self.gate = HostGate()
        self.pruner = Pruner(self.model, self.groups, self.task, seed=self.config.search.seed, prepared=self.prepared)
        self._template: OnnxTemplate | None = None
        self._dense: Dense | None = None

    @property
    def template(self) -> OnnxTemplate:
        """The dense graph that candidates' weights are bound into, exported on first use."""
        if self._template is None:
            self._template = OnnxTemplate(self.model, self.example)
        return self._template

    @property
    def dense(self) -> Dense:
        """The dense model, deployed and scored on first use."""
        if self._dense is None:
            sessions = {t.name: self.deploy(self.model, t) for t in self.targets}
            scored = self.score(sessions[self.targets[0].name])
            inputs = {t.name: self.task.example_inputs(batch_size=t.batch) for t in self.targets}
            self._dense = Dense(sessions, scored, inputs)
        return self._dense

    def require_dense(self) -> None:
        """Deploy and score the dense model.

        Raises:
            TaskError: It does not run on a target, or its score is not finite.
        """
        try:
            _ = self.dense
        except CandidateError as error:
            raise TaskError(
                f"The dense model cannot be deployed and scored on {', '.join(self.config.latency.targets)}: {error}",
                hint="Replace Python that depends on data (torch.where for an if), or take torch-eager targets only.",
            ) from error

    def deploy(self, model: nn.Module, target: Target) -> Session:
        """Return a model as the target runs it, its outputs checked against the module's."""
        example = self.task.example_inputs(batch_size=target.batch)
        template = self.template if target.runtime == "onnxruntime" else None
        return open_session(model, target, example, template=template)

    def score(self, session: Session) -> Evaluated:
        """Return the scores of a deployed model on val."""
        limit = self.config.recovery.val_images
        return score(self.task, session, "val", limit=limit, seed=self.config.search.seed)

    def latency_settings(self, target: Target, *, seed: int, rounds: int) -> LatencySettings:
        """Return how latency is measured on a target."""
        return LatencySettings(rounds=rounds, threads=target.threads, seed=seed, gate=self.gate)

    def time(self, session: Session, target: Target, *, seed: int, rounds: int) -> Latency:
        """Return the latency of a deployed model, interleaved with the dense one."""
        inputs = self.dense.inputs[target.name]
        settings = self.latency_settings(target, seed=seed, rounds=rounds)
        return measure_latency(session.call(inputs), self.dense.sessions[target.name].call(inputs), settings)

    def steps_of(self, policy: Policy, fidelity: Fidelity) -> int:
        """Return the optimizer steps of a policy: its own at the search's budget, scaled up for finalists."""
        if fidelity == "proxy":
            return 0
        budget = self.config.recovery
        own = policy.strategy.recovery_steps
        steps = budget.short_steps if own is None else own
        if fidelity != "full":
            return steps
        return budget.full_steps if own is None else round(own * budget.full_steps / max(budget.short_steps, 1))

    def prune(
        self, policy: Policy, fidelity: Fidelity, *, repeat: int = 0, watch: RungWatch | None = None
    ) -> PrunedModel:
        """Return the pruned and recovered model of a policy; the same policy, run seed and repeat give the same model.

        A `watch` looks at the model while it trains and may end the training.
        """
        budget = self.config.recovery
        seed = candidate_seed(self.config.search.seed, policy.digest, repeat)
        with _TrainingTurn(self.gate) as take_turns:

            def on_step(model: nn.Module, step: int) -> None:
                take_turns(model, step)
                if watch is not None:
                    watch.on_step(model, step)

            return self.pruner.prune(
                policy,
                Recovery(
                    steps=self.steps_of(policy, fidelity),
                    batch_size=budget.batch_size,
                    calibration=budget.proxy_images,
                    distillation=budget.distillation,
                    seed=seed,
                    on_step=on_step,
                    on_report=None if watch is None else watch.on_report,
                ),
            )

    def probe(self, model: nn.Module, *, seed: int) -> tuple[float, float]:
        """Return (value on val, minimised; multiply-accumulates) of a model in training, which is left as it was."""
        budget = self.config.recovery
        limit = min(budget.val_images or PROBE_UNITS, PROBE_UNITS)

        def predict(inputs: Inputs) -> Any:
            with torch.no_grad():
                return self.task.structure(model(*inputs.args, **inputs.kwargs))

        with as_recalibrated(model, self.task, limit=min(budget.proxy_images, PROBE_UNITS), seed=seed):
            scored = self.task.evaluate(predict, "val", limit=limit, seed=self.config.search.seed)
            return error_like(self.task, scored.metrics), float(count_macs(model, self.example))

    def evaluate(
        self, model: nn.Module, *, seed: int, rounds: int, seconds: dict[str, float], targets: Sequence[Target] = ()
    ) -> Evaluation:
        """Measure a model: quality on val on the first target, latency on `targets` (all by default), and its cost."""
        targets = targets or self.targets
        with _timed(seconds, "deploy"):
            sessions = {t.name: self.deploy(model, t) for t in targets}
        with _timed(seconds, "quality"):
            scored = self.score(sessions[self.targets[0].name])
            quality = intervals(self.task, scored, seed=seed)
            change = compare(self.task, scored, self.dense.scored, seed=seed)
            cost = measure_cost(model, self.example)
        with _timed(seconds, "latency"):
            latency = {t.name: self.time(sessions[t.name], t, seed=seed, rounds=rounds) for t in targets}
        return Evaluation({"val": quality}, latency, cost, change, dict(seconds))

    def run(self, job: Job) -> CandidateRecord:
        """Evaluate a job and write its record; a candidate that fails is a record too."""
        with training_threads(self.config):
            return self._run(job)

    def _run(self, job: Job) -> CandidateRecord:
        started, cpu, seconds = time.monotonic(), time.process_time(), dict[str, float]()
        record = blank_record(self.setup, job)
        files: Mapping[str, bytes] = {}
        try:
            record, pruned = self._attempt(job, record, seconds)
            files = _weights(pruned) if job.fidelity == "full" else {}
        except CandidateError as error:
            record = replace(record, failure=failure_of(error.reason, error.stage, str(error)))
        except (Exception, SystemExit) as error:
            record = replace(record, failure=failure_of("error", next(reversed(seconds), "prune"), describe(error)))
        record = replace(record, seconds=time.monotonic() - started, cpu_seconds=time.process_time() - cpu)
        RecordStore(self.setup.directory).write(record, files)
        return record

    def _attempt(
        self, job: Job, record: CandidateRecord, seconds: dict[str, float]
    ) -> tuple[CandidateRecord, PrunedModel]:
        """Return the record of a job that is complete, or was stopped at a rung, and its model."""
        watch = None if job.rungs is None else RungWatch(job.rungs, partial(self.probe, seed=record.seed))
        with _timed(seconds, "prune"):
            pruned = self.prune(job.policy, job.fidelity, repeat=job.repeat, watch=watch)
        if watch is not None:
            record = replace(record, reports=tuple(watch.reports))
            if watch.ended_early(self.steps_of(job.policy, job.fidelity)):
                cost = asdict(measure_cost(pruned.model, self.example))
                return replace(record, state="stopped", evaluation={"cost": cost}), pruned
        targets = self.targets if job.fidelity == "full" else self.targets[:1]
        rounds = self.config.latency.rounds
        evaluation = self.evaluate(pruned.model, seed=record.seed, rounds=rounds, seconds=seconds, targets=targets)
        values = values_of(self.objectives, evaluation, self.setup.dense_ms)
        return replace(record, state="complete", values=values, evaluation=asdict(evaluation)), pruned


class _TrainingTurn:
    """Holds the host's shared lock while a candidate trains, and lets measurements in between every few steps."""

    def __init__(self, gate: HostGate) -> None:
        self._gate = gate
        self._stack = ExitStack()

    def __enter__(self) -> Callable[[nn.Module, int], None]:
        self._stack.enter_context(self._gate.shared())
        return self._after_step

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _after_step(self, model: nn.Module, step: int) -> None:
        del model
        if step % GATE_STEPS == GATE_STEPS - 1:
            self._stack.close()
            self._stack.enter_context(self._gate.shared())


def blank_record(setup: Setup, job: Job) -> CandidateRecord:
    """Return the record of a job before anything is known of it; its state is failed until it is complete."""
    return CandidateRecord(
        id=job.id,
        number=job.number,
        state="failed",
        policy=job.policy.to_json(),
        digest=job.policy.digest,
        fidelity=job.fidelity,
        seed=candidate_seed(setup.config.search.seed, job.policy.digest, job.repeat),
        proposal=job.proposal,
        predicted=job.predicted,
        host=platform.node(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=job.origin,
        repeat=job.repeat,
    )


def failure_of(reason: str, stage: str, message: str) -> dict[str, str]:
    """Return why a candidate failed, as its record states it."""
    return {"reason": reason, "stage": stage, "message": message}


def evaluation_of(record: CandidateRecord) -> Evaluation:
    """Return the evaluation that a complete record stores."""
    return _EVALUATION.validate_python(record.evaluation)


def _weights(pruned: PrunedModel) -> dict[str, bytes]:
    state = {k: v.detach().contiguous() for k, v in pruned.model.state_dict().items()}
    plan = json.dumps(architecture_to_json(pruned.architecture)).encode()
    return {WEIGHTS_FILE: save_tensors(state), PLAN_FILE: plan}


@contextmanager
def training_threads(config: RunConfig) -> Iterator[None]:
    """Let torch use a worker's share of the cores, as long as the context lasts."""
    before = torch.get_num_threads()
    share = max(1, (os.cpu_count() or 1) // config.search.workers)
    torch.set_num_threads(config.executor.threads or share)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    seconds[stage] = 0.0
    started = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - started
