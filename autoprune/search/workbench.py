"""One worker's prepared state: task, dense model, groups, space; and how it turns a job into a record."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from autoprune.config.model import RunConfig
from autoprune.errors import CandidateError, TaskError
from autoprune.evaluation import (
    HostGate,
    LatencySettings,
    agreement,
    compare,
    count_macs,
    intervals,
    measure_cost,
    measure_latency,
    score,
)
from autoprune.evaluation.types import Evaluation, Latency
from autoprune.groups import find_groups, prepare_model, rebuild
from autoprune.groups.architecture import architecture_from_json, architecture_to_json
from autoprune.groups.types import ModelGroups
from autoprune.policy import Policy, candidate_seed
from autoprune.pruning import PrunedModel, Pruner, Recovery, as_recalibrated
from autoprune.records import CandidateRecord, Fidelity
from autoprune.runtimes import CPU, OnnxTemplate, Session, Target, device_name, on_device, open_session, parse_target
from autoprune.search.devices import training_devices
from autoprune.search.executors.base import Job
from autoprune.search.idle import refuse_idle
from autoprune.search.objectives import Objective, error_like, objectives_of, values_of
from autoprune.search.outbox import Outbox
from autoprune.search.ranks import Ranks
from autoprune.search.rungs import RungWatch
from autoprune.search.setup import Setup, blank_record, failure_of
from autoprune.search.turns import TrainingTurn
from autoprune.search.weights import set_weights, weights_of
from autoprune.space import BoundSpace, load_space
from autoprune.storage import parse_json
from autoprune.tasks import GuardedTask
from autoprune.tasks.failures import describe
from autoprune.tasks.protocol import Evaluated, Inputs, Task

PROBE_UNITS = 512
WEIGHTS_FILE = "model.safetensors"
PLAN_FILE = "plan.json"
_EVALUATION = TypeAdapter(Evaluation)
_log = logging.getLogger("autoprune")


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
        self.groups: ModelGroups = find_groups(
            self.model,
            self.example,
            protect=protect,
            only=self.config.groups.only,
            query_heads=self.config.groups.query_heads,
        )
        self.space: BoundSpace = load_space(self.config.space, base=setup.base).bind(self.groups)
        self.objectives: tuple[Objective, ...] = objectives_of(self.config, self.task)
        refuse_idle(self.space, self.objectives)
        self.targets: tuple[Target, ...] = tuple(parse_target(t) for t in self.config.latency.targets)
        self.gate = HostGate()
        self.pruner = Pruner(
            self.model,
            self.groups,
            self.task,
            seed=self.config.search.seed,
            prepared=self.prepared,
            count=partial(count_macs, example=self.example),
        )
        self.space = self.space.with_allotments(self.pruner.allotment)
        self.outbox = Outbox(setup)
        self._template: OnnxTemplate | None = None
        self._dense: Dense | None = None

    @cached_property
    def devices(self) -> tuple[torch.device, ...]:
        """What candidates train on, claimed on first use: a driver that only looks on takes no GPU from a worker."""
        return training_devices(self.config.executor.gpus_per_worker, self.gate.directory)

    @cached_property
    def ranks(self) -> Ranks:
        """The further processes that train a candidate where it has several devices, started with the first one."""
        return Ranks(self.setup, self.user_task, self.devices)

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
        if target.device != CPU.type:
            _ = self.devices
        example = self.task.example_inputs(batch_size=target.batch)
        template = self.template if target.runtime == "onnxruntime" else None
        return open_session(model, target, example, template=template)

    def score(self, session: Session) -> Evaluated:
        """Return the scores of a deployed model on val."""
        limit = self.config.recovery.val_images
        return score(self.task, session, "val", limit=limit, seed=self.config.search.seed)

    def latency_settings(self, target: Target, *, seed: int, rounds: int) -> LatencySettings:
        """Return how latency is measured on a target."""
        return LatencySettings(rounds=rounds, threads=target.threads, seed=seed, gate=self.gate, device=target.device)

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
        device, *others = self.devices_of(policy)
        with TrainingTurn(self.gate, device) as take_turns:
            return self.pruner.prune(
                policy,
                Recovery(
                    steps=self.steps_of(policy, fidelity),
                    batch_size=budget.batch_size,
                    calibration=budget.proxy_images,
                    distillation=budget.distillation,
                    seed=seed,
                    on_step=take_turns,
                    on_probe=None if watch is None else watch.on_step,
                    on_report=None if watch is None else watch.on_report,
                    device=device,
                    train=self.ranks.train if others else None,
                ),
            )

    def probe(self, model: nn.Module, *, seed: int) -> tuple[float, float]:
        """Return (value on val, minimised; multiply-accumulates) of a model in training, which is left as it was."""
        budget = self.config.recovery
        limit = min(budget.val_images or PROBE_UNITS, PROBE_UNITS)

        device = next((p.device for p in model.parameters()), CPU)

        def predict(inputs: Inputs) -> Any:
            args, kwargs = on_device(inputs, device)
            with torch.no_grad():
                return on_device(self.task.structure(model(*args, **kwargs)), CPU)

        with as_recalibrated(model, self.task, limit=min(budget.proxy_images, PROBE_UNITS), seed=seed):
            scored = self.task.evaluate(predict, "val", limit=limit, seed=self.config.search.seed)
            return error_like(self.task, scored.metrics), float(count_macs(model, on_device(self.example, device)))

    def devices_of(self, policy: Policy) -> tuple[torch.device, ...]:
        """Return what a policy's model trains on; nothing is trained where nothing is removed."""
        return self.devices if policy.removes else (CPU,)

    def evaluate(
        self, model: nn.Module, *, seed: int, rounds: int, seconds: dict[str, float], targets: Sequence[Target] = ()
    ) -> Evaluation:
        """Measure a model: quality on val on the first target, latency on `targets` (all by default), and its cost."""
        sessions = self._sessions(model, targets or self.targets, seconds)
        judged = self._judged(model, sessions, seed, seconds)
        latency = self._latency(sessions, seed, rounds, seconds)
        return replace(judged, latency=latency, seconds=dict(seconds))

    def run(self, job: Job) -> CandidateRecord:
        """Evaluate a job, or one half of it, and write its record; a candidate that fails is a record too."""
        with training_threads(self.config):
            return self._run(job)

    def _run(self, job: Job) -> CandidateRecord:
        if job.stage == "train" and (done := self.outbox.unfinished(job.id)) is not None:
            return done[0]
        started, cpu, seconds = time.monotonic(), time.process_time(), dict[str, float]()
        record = blank_record(self.setup, job)
        files: Mapping[str, bytes] = {}
        try:
            if job.stage == "measure":
                record, files = self._second_half(job, record, seconds)
            else:
                record = self._with_device(record, job)
                record, files = self._attempt(job, record, seconds)
        except CandidateError as error:
            record = replace(record, failure=failure_of(error.reason, error.stage, str(error)))
        except (Exception, SystemExit) as error:
            record = replace(record, failure=failure_of("error", next(reversed(seconds), "prune"), describe(error)))
        wall, busy = time.monotonic() - started, time.process_time() - cpu
        record = replace(record, seconds=record.seconds + wall, cpu_seconds=record.cpu_seconds + busy)
        self.outbox.write(record, files)
        if job.stage == "measure":
            self.outbox.forget(job.id)
        return record

    def _attempt(
        self, job: Job, record: CandidateRecord, seconds: dict[str, float]
    ) -> tuple[CandidateRecord, Mapping[str, bytes]]:
        """Return the record of a job that is complete, was stopped at a rung or is half done, and its model's files."""
        watch = None if job.rungs is None else RungWatch(job.rungs, partial(self.probe, seed=record.seed))
        with _timed(seconds, "prune"):
            pruned = self.prune(job.policy, job.fidelity, repeat=job.repeat, watch=watch)
        record = replace(record, notes=pruned.notes)
        files = _weights(pruned) if job.fidelity == "full" or job.stage == "train" else {}
        if watch is not None:
            record = replace(record, reports=tuple(watch.reports))
            if watch.ended_early(self.steps_of(job.policy, job.fidelity)):
                cost = asdict(measure_cost(pruned.model, self.example))
                return replace(record, state="stopped", evaluation={"cost": cost}), {}
        if job.stage == "train":
            sessions = self._sessions(pruned.model, self.targets[:1], seconds)
            judged = self._judged(pruned.model, sessions, record.seed, seconds)
            return replace(record, evaluation=asdict(replace(judged, seconds=dict(seconds)))), files
        rounds, targets = self.config.latency.rounds, self._targets_of(job)
        evaluation = self.evaluate(pruned.model, seed=record.seed, rounds=rounds, seconds=seconds, targets=targets)
        return self._completed(record, evaluation), files

    def _second_half(
        self, job: Job, record: CandidateRecord, seconds: dict[str, float]
    ) -> tuple[CandidateRecord, Mapping[str, bytes]]:
        """Return the complete record of a job whose first half another worker has done, and its model's files.

        Where nothing intact of that is found, both halves are done here.
        """
        found = self.outbox.unfinished(job.id, (WEIGHTS_FILE, PLAN_FILE))
        if found is None:
            _log.warning("Candidate %s is trained again: nothing of its first half is found.", job.id)
            record = self._with_device(record, job)
            return self._attempt(replace(job, stage="all"), record, seconds)
        first, files = found
        model = rebuild(self.model, architecture_from_json(parse_json(files[PLAN_FILE])))
        sessions = self._sessions(set_weights(model, files[WEIGHTS_FILE]), self._targets_of(job), seconds)
        latency = self._latency(sessions, record.seed, self.config.latency.rounds, seconds)
        judged = evaluation_of(first)
        both = {**judged.seconds, **{name: judged.seconds.get(name, 0.0) + own for name, own in seconds.items()}}
        record = replace(
            record,
            host=first.host,
            device=first.device,
            measured_on=platform.node(),
            reports=first.reports,
            notes=first.notes,
            seconds=first.seconds,
            cpu_seconds=first.cpu_seconds,
        )
        completed = self._completed(record, replace(judged, latency=latency, seconds=both))
        return completed, files if job.fidelity == "full" else {}

    def _with_device(self, record: CandidateRecord, job: Job) -> CandidateRecord:
        return replace(record, device=device_name(*self.devices_of(job.policy)))

    def _targets_of(self, job: Job) -> tuple[Target, ...]:
        return self.targets if job.fidelity == "full" else self.targets[:1]

    def _sessions(self, model: nn.Module, targets: Sequence[Target], seconds: dict[str, float]) -> dict[str, Session]:
        with _timed(seconds, "deploy"):
            return {t.name: self.deploy(model, t) for t in targets}

    def _judged(
        self, model: nn.Module, sessions: Mapping[str, Session], seed: int, seconds: dict[str, float]
    ) -> Evaluation:
        """Return everything but latency."""
        with _timed(seconds, "quality"):
            scored = self.score(sessions[self.targets[0].name])
            quality = intervals(self.task, scored, seed=seed)
            change = compare(self.task, scored, self.dense.scored, seed=seed)
            cost, agreed = measure_cost(model, self.example), agreement(scored, self.dense.scored)
            return Evaluation({"val": quality}, {}, cost, change, agreement=agreed)

    def _latency(
        self, sessions: Mapping[str, Session], seed: int, rounds: int, seconds: dict[str, float]
    ) -> dict[str, Latency]:
        known = {t.name: t for t in self.targets}
        with _timed(seconds, "latency"):
            return {n: self.time(session, known[n], seed=seed, rounds=rounds) for n, session in sessions.items()}

    def _completed(self, record: CandidateRecord, evaluation: Evaluation) -> CandidateRecord:
        values = values_of(self.objectives, evaluation, self.setup.dense_ms)
        return replace(record, state="complete", values=values, evaluation=asdict(evaluation))


def evaluation_of(record: CandidateRecord) -> Evaluation:
    """Return the evaluation that a complete record stores."""
    return _EVALUATION.validate_python(record.evaluation)


def _weights(pruned: PrunedModel) -> dict[str, bytes]:
    plan = json.dumps(architecture_to_json(pruned.architecture)).encode()
    return {WEIGHTS_FILE: weights_of(pruned.model), PLAN_FILE: plan}


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
