"""Measured finalists -> the front on disk: one directory a member, and the documents that describe them."""

from __future__ import annotations

import platform
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from autoprune.artifacts import FORMATS, CardFacts, export_bytes, render_card, save_member
from autoprune.artifacts import Member as Artifact
from autoprune.errors import AutopruneError, CandidateError
from autoprune.evaluation import compare, intervals, predictor_of, score
from autoprune.evaluation.types import Cost, Interval, Latency
from autoprune.records import CandidateRecord
from autoprune.report.document import (
    Change,
    Constraint,
    Deployment,
    Estimate,
    EvaluationCounts,
    FrontDocument,
    LatencyResult,
    Member,
    Provenance,
    Quality,
    TargetInfo,
    Warned,
)
from autoprune.report.document import Objective as ObjectiveInfo
from autoprune.report.writers import write_front
from autoprune.runtimes import Session, Target
from autoprune.search.directory import EVENTS_FILE, EventLog, RunDirectory, cpu_name, total_times, versions
from autoprune.search.loop import policy_of, violations_of
from autoprune.search.measured import Deployed, Measured, choose_front, deploy_all, measure_finalists
from autoprune.search.objectives import Constraints
from autoprune.search.summary import hypervolume_of, picks_of, warnings_of
from autoprune.search.workbench import WEIGHTS_FILE, Workbench, evaluation_of
from autoprune.storage import MANIFEST, read_manifest
from autoprune.tasks import TestAccess
from autoprune.tasks.protocol import Evaluated

FRONT_FOLDER = "front"
DENSE_NAME = "dense"
ONNX_FILE = "model.onnx"
PROBE_BATCH = 2
PROTOCOL = (
    "interleaved with the dense model in random order, in several passes through all finalists; speed-up = geometric "
    "mean of the paired rounds; ms = the run's dense reference / speed-up"
)


@dataclass(frozen=True)
class Emission:
    """What emission needs to know of a run.

    Args:
        bench: The driver's workbench.
        directory: Where to write.
        events: The run's log.
        constraints: What was demanded.
        identity: Digests of task source and data.
        config_sha256: Digest of the configuration.
        records: All records by id.
        dense: The dense model's record.
    """

    bench: Workbench
    directory: RunDirectory
    events: EventLog
    constraints: Constraints
    identity: Mapping[str, str]
    config_sha256: str
    records: Mapping[str, CandidateRecord]
    dense: CandidateRecord


def emit(emission: Emission, finalists: Sequence[CandidateRecord]) -> tuple[FrontDocument, list[str]]:
    """Measure the finalists, choose the front, score it once on test and write it.

    Returns:
        The front as written, and one line for each finalist that could not be emitted.
    """
    bench = emission.bench
    dense = deploy_all(bench, bench.model)
    measured, failures = measure_finalists(bench, dense, finalists, emission.constraints)
    front = choose_front(bench, measured, emission.dense.values)
    for one in measured:
        if one not in front:
            emission.events.add("not_on_front", id=one.record.id, values=dict(one.values))
    scorer = Scorer(emission, dense)
    members: list[tuple[Measured, Member]] = []
    for rank, chosen in enumerate(front, start=1):
        try:
            members.append((chosen, scorer.member(chosen, rank)))
        except AutopruneError as error:
            failures.append(f"{chosen.record.id}: {error}")
    document = _document(emission, members, scorer)
    write_front(document, emission.directory.path)
    _remove_old(emission.directory.path / FRONT_FOLDER, {Path(m.directory or "").name for _, m in members})
    return document, failures


class Scorer:
    """Scores members on test, through the one counted accessor, and writes their directories."""

    def __init__(self, emission: Emission, dense: Deployed) -> None:
        self.emission = emission
        self.bench = emission.bench
        self.dense = dense
        self.access = TestAccess(emission.bench.user_task, reads=emission.events.count("test_read"))
        self.targets = {t.name: _target(self.bench, t) for t in self.bench.targets}
        self._dense_test: dict[str, Evaluated] = {}
        self.dense_member = self._baseline()

    def _baseline(self) -> Member:
        """Return the dense model as a member: it has no directory."""
        record, evaluation = self.emission.dense, evaluation_of(self.emission.dense)
        first = self.bench.targets[0].name
        deployments = {}
        for target in self.bench.targets:
            session = self.dense.sessions[target.name]
            test = self._dense_test[target.name] = self._test(session, DENSE_NAME)
            latency = replace(evaluation.latency[target.name], speedup=1.0, speedup_low=1.0, speedup_high=1.0)
            val = evaluation.quality["val"]
            if target.name != first:
                val = intervals(self.bench.task, score(self.bench.task, session, "val"), seed=0)
            deployments[target.name] = Deployment(
                quality=Quality(val=_estimates(val), test=_estimates(intervals(self.bench.task, test, seed=0))),
                latency=_latency(latency, latency),
            )
        return Member(
            id=record.id,
            name=DENSE_NAME,
            strategy="none",
            fidelity="full",
            feasible=all(v <= 0.0 for v in violations_of(self.emission.constraints, record).values()),
            deployments=deployments,
            **_sizes(evaluation.cost),
        )

    def member(self, chosen: Measured, rank: int) -> Member:
        """Score a member on test, write its directory and return its description.

        Raises:
            AutopruneError: An export or a file failed.
        """
        record, policy = chosen.record, policy_of(chosen.record)
        exported, missing = self._exports(chosen)
        deployments = {t.name: self._deployment(chosen, t.name) for t in self.bench.targets}
        speedup = chosen.evaluation.latency[self.bench.targets[0].name].speedup
        name = f"{speedup:.2f}x"
        described = Member(
            id=record.id,
            name=name,
            directory=f"{FRONT_FOLDER}/{rank:02d}_{name}",
            policy_digest=record.digest,
            strategy=f"{policy.strategy.criterion}, {policy.strategy.recovery}",
            recovery_seed=record.seed,
            fidelity="full",
            feasible=chosen.feasible,
            deployments=deployments,
            warnings=(*warnings_of(chosen, evaluation_of(self.emission.dense), self.bench.targets[0].name), *missing),
            **_sizes(chosen.evaluation.cost),
        )
        artifact = {t.name: ONNX_FILE if t.runtime == "onnxruntime" else WEIGHTS_FILE for t in self.bench.targets}
        self._save(chosen, described, exported)
        manifest = read_manifest(self.emission.directory.path / str(described.directory))
        forms = {
            name: form.model_copy(update={"artifact": artifact[name], "sha256": manifest[artifact[name]].sha256})
            for name, form in deployments.items()
        }
        return described.model_copy(update={"deployments": forms})

    def _exports(self, chosen: Measured) -> tuple[dict[str, bytes], list[Warned]]:
        """Return format -> file content, and a warning for each format that the model cannot be exported to."""
        example = self.bench.task.example_inputs(batch_size=PROBE_BATCH)
        exported = {} if chosen.deployed.onnx is None else {"onnx": chosen.deployed.onnx}
        missing = []
        for name in FORMATS:
            if name not in exported:
                try:
                    exported[name] = export_bytes(name, chosen.deployed.model, example)
                except CandidateError as error:
                    missing.append(Warned(code=f"no_{name}", text=f"There is no {FORMATS[name].file}: {error}"))
        return exported, missing

    def _save(self, chosen: Measured, described: Member, exported: Mapping[str, bytes]) -> None:
        bench, policy = self.bench, policy_of(chosen.record)
        facts = CardFacts(
            run=bench.config.name,
            task=bench.task.name,
            member=described.model_dump(mode="json"),
            baseline=self.dense_member.model_dump(mode="json"),
            targets={name: info.model_dump(mode="json") for name, info in self.targets.items()},
            policy=policy.to_json(),
            provenance={"versions": versions()},
        )
        artifact = Artifact(
            model=chosen.deployed.model,
            example=bench.task.example_inputs(batch_size=PROBE_BATCH),
            policy=policy.to_json(),
            architecture=chosen.architecture,
            metrics={"measured": facts.member, "predicted": {}},
            card=render_card(facts),
            formats=tuple(exported),
            exported=exported,
        )
        save_member(self.emission.directory.path / str(described.directory), artifact)

    def _deployment(self, chosen: Measured, target: str) -> Deployment:
        task, seed = self.bench.task, chosen.record.seed
        test = self._test(chosen.deployed.sessions[target], chosen.record.id)
        changes = compare(task, test, self._dense_test[target], seed=seed)
        return Deployment(
            quality=Quality(
                val=_estimates(intervals(task, chosen.val[target], seed=seed)),
                test=_estimates(intervals(task, test, seed=seed)),
            ),
            versus_dense={name: Change(**asdict(change)) for name, change in changes.items()},
            latency=_latency(chosen.evaluation.latency[target], evaluation_of(self.emission.dense).latency[target]),
        )

    def _test(self, session: Session, candidate: str) -> Evaluated:
        scored = self.access.evaluate_test(predictor_of(session, self.bench.task))
        self.emission.events.add("test_read", id=candidate)
        return scored


def _document(emission: Emission, members: Sequence[tuple[Measured, Member]], scorer: Scorer) -> FrontDocument:
    bench, records = emission.bench, list(emission.records.values())
    wall, cpu = total_times(emission.directory.path / EVENTS_FILE)
    values = [chosen.values for chosen, _ in members]
    names = versions()
    return FrontDocument(
        run=bench.config.name,
        objectives=tuple(ObjectiveInfo(**asdict(o)) for o in bench.objectives),
        constraints=_constraints(members),
        targets=scorer.targets,
        provenance=Provenance(
            autoprune=names.get("autoprune", "unknown"),
            versions=names,
            seed=bench.config.search.seed,
            config_sha256=emission.config_sha256,
            test_reads=scorer.access.reads,
            **emission.identity,
        ),
        evaluations=_counts(records),
        wall_seconds=wall,
        cpu_seconds=cpu,
        hypervolume=hypervolume_of(bench.objectives, bench.task.metrics, values, emission.dense.values),
        picks=picks_of(bench.objectives, [m.id for _, m in members], values, [m.parameters for _, m in members]),
        baseline=scorer.dense_member,
        members=tuple(m for _, m in members),
    )


def _counts(records: Sequence[CandidateRecord]) -> EvaluationCounts:
    """Count candidates by fidelity; the dense model, number 0, is none."""
    complete = Counter(str(r.fidelity) for r in records if r.state == "complete" and r.number > 0)
    return EvaluationCounts(**complete, failed=sum(r.state == "failed" for r in records))


def _constraints(members: Sequence[tuple[Measured, Member]]) -> tuple[Constraint, ...]:
    satisfied: dict[str, list[str]] = {}
    for chosen, member in members:
        for text, violation in chosen.violations.items():
            satisfied.setdefault(text, []).extend([member.id] if violation <= 0.0 else [])
    return tuple(Constraint(expression=text, satisfied_by=tuple(ids)) for text, ids in satisfied.items())


def _target(bench: Workbench, target: Target) -> TargetInfo:
    return TargetInfo(
        runtime=target.runtime,
        runtime_version=bench.dense.sessions[target.name].runtime_version,
        precision=target.precision,
        batch=target.batch,
        threads=target.threads,
        shape="default",
        device=cpu_name(),
        host=platform.node(),
        protocol=PROTOCOL,
    )


def _latency(latency: Latency, reference: Latency) -> LatencyResult:
    """Return a latency on the run's one scale: that of the dense reference divided by the measured speed-up."""
    return LatencyResult(
        ms=reference.ms / latency.speedup,
        low=reference.low / latency.speedup_high,
        high=reference.high / latency.speedup_low,
        samples=latency.samples,
        speedup=latency.speedup,
        speedup_low=latency.speedup_low,
        speedup_high=latency.speedup_high,
        clean=latency.clean and reference.clean,
        polluted_share=latency.polluted_share,
    )


def _estimates(found: Mapping[str, Interval]) -> dict[str, Estimate]:
    return {name: Estimate(**asdict(interval)) for name, interval in found.items()}


def _sizes(cost: Cost) -> dict[str, int]:
    return asdict(cost)


def _remove_old(folder: Path, current: set[str]) -> None:
    """Delete members of an earlier front of the same run; what is no member's directory is left alone."""
    if folder.is_dir():
        for old in folder.iterdir():
            if old.name not in current and (old / MANIFEST).is_file():
                shutil.rmtree(old, ignore_errors=True)
