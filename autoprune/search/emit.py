"""Measured finalists -> the front on disk: one directory a member, and the documents that describe them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from autoprune.artifacts import CardFacts, save_member
from autoprune.artifacts import Member as Artifact
from autoprune.evaluation import compare, intervals, predictor_of, score
from autoprune.records import CandidateRecord
from autoprune.report.document import (
    Constraint,
    Deployment,
    FrontDocument,
    Gain,
    Importance,
    Member,
    Provenance,
    Quality,
    Warned,
)
from autoprune.report.document import Objective as ObjectiveInfo
from autoprune.report.html.page import REPORT_FILE, write_report
from autoprune.report.parts import Change
from autoprune.report.pictures import PICTURES_FILE
from autoprune.report.writers import FRONT_FILES, write_front_file
from autoprune.runtimes import Session
from autoprune.search.controls import control_records, plan_controls
from autoprune.search.describe import (
    TrustFigures,
    control_members,
    counts_of,
    estimates_of,
    latency_of,
    predicted_of,
    predictor_info,
    seed_spread_of,
    sizes_of,
    target_info,
)
from autoprune.search.directory import EVENTS_FILE, FRONT_FILE, EventLog, RunDirectory, total_times, versions
from autoprune.search.examination import Examined, Examiner, Subject
from autoprune.search.exports import Exporter
from autoprune.search.finalists import is_feasible
from autoprune.search.gain import GainScale, gain_over
from autoprune.search.importance import importance_of
from autoprune.search.loop import policy_of, violations_of
from autoprune.search.losses import Losses
from autoprune.search.measured import Deployed, Measured, choose_front, deploy_all, measure_finalists
from autoprune.search.objectives import Constraints
from autoprune.search.pictures import Shown
from autoprune.search.removed import removed_of, strategy_words, zeros_warning
from autoprune.search.summary import (
    disagreements,
    history_of,
    hypervolume_of,
    off_grid,
    picks_of,
    searched,
    warnings_of,
)
from autoprune.search.workbench import WEIGHTS_FILE, Workbench, evaluation_of
from autoprune.storage import MANIFEST, read_manifest
from autoprune.storage.faults import fault_point
from autoprune.tasks import TestAccess
from autoprune.tasks.protocol import Evaluated

FRONT_FOLDER = "front"
DENSE_NAME = "dense"
ONNX_FILE = "model.onnx"


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
        trust: What is known of the predictor, where one was used.
        ended_because: Why the search ended, such as `budget` or `plateau`.
        repeats: Policy digest -> full records of its recoveries with several seeds.
    """

    bench: Workbench
    directory: RunDirectory
    events: EventLog
    constraints: Constraints
    identity: Mapping[str, str]
    config_sha256: str
    records: Mapping[str, CandidateRecord]
    dense: CandidateRecord
    trust: TrustFigures | None = None
    ended_because: str | None = None
    repeats: Mapping[str, Sequence[CandidateRecord]] = field(default_factory=dict)


def emit(emission: Emission, finalists: Sequence[CandidateRecord]) -> tuple[FrontDocument, Losses]:
    """Measure the finalists, choose the front, score it once on test and write it.

    Returns:
        The front as written, and what of it could not be emitted: members, single formats of them, cards, reports.

    Raises:
        StorageError: The front document cannot be written, or no model for want of space.
        PartialResultError: No model could be emitted.
    """
    bench, losses = emission.bench, Losses()
    dense = deploy_all(bench, bench.model)
    measured = measure_finalists(bench, dense, finalists, emission.constraints, losses)
    fault_point("finalists-measured")
    front = choose_front(bench, measured, emission.dense.values)
    for one in measured:
        if one not in front:
            emission.events.add("not_on_front", id=one.record.id, values=dict(one.values))
    scorer = Scorer(emission, dense, losses)
    _remove_documents(emission.directory.path)
    members: list[tuple[Measured, Member]] = []
    for rank, chosen in enumerate(front, start=1):
        with losses.noting(chosen.record.id):
            members.append((chosen, scorer.member(chosen, rank)))
            fault_point("member-emitted")
    if not members:
        losses.report(0, emission.directory.path)
    document = scorer.with_pictures(_document(emission, members, scorer), [chosen for chosen, _ in members])
    _write_documents(document, emission.directory.path, losses)
    fault_point("front-written")
    _remove_old(emission.directory.path / FRONT_FOLDER, {Path(m.directory or "").name for _, m in members})
    return document, losses


class Scorer:
    """Scores members on test, through the one counted accessor, and writes their directories."""

    def __init__(self, emission: Emission, dense: Deployed, losses: Losses) -> None:
        self.emission = emission
        self.bench = emission.bench
        self.dense = dense
        self.losses = losses
        self._exporter = Exporter(emission.bench, losses)
        self.access = TestAccess(emission.bench.user_task, reads=emission.events.count("test_read"))
        self.targets = {t.name: target_info(self.bench, t) for t in self.bench.targets}
        self._dense_test: dict[str, Evaluated] = {}
        self._first_tests: dict[str, Evaluated] = {}
        baseline, first = self._baseline(), self.bench.targets[0].name
        subject = Subject(DENSE_NAME, dense.model, dense.sessions[first], self._dense_test[first])
        self.examiner = Examiner(self.bench, subject, losses)
        self.dense_member = _with(baseline, self.examiner.baseline)

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
                quality=Quality(val=estimates_of(val), test=estimates_of(intervals(self.bench.task, test, seed=0))),
                latency=latency_of(latency, latency),
            )
        return Member(
            id=record.id,
            name=DENSE_NAME,
            strategy="none",
            fidelity="full",
            feasible=all(v <= 0.0 for v in violations_of(self.emission.constraints, record).values()),
            deployments=deployments,
            **sizes_of(evaluation.cost),
        )

    def member(self, chosen: Measured, rank: int) -> Member:
        """Score a member on test, write its directory and return its description.

        Raises:
            AutopruneError: An export or a file failed.
        """
        record, policy = chosen.record, policy_of(chosen.record)
        removed = removed_of(self.bench.groups, chosen.architecture, chosen.deployed.model)
        exported, missing = self._exporter.exports(chosen)
        tests = {t.name: self._test(chosen.deployed.sessions[t.name], record.id) for t in self.bench.targets}
        deployments = {name: self._deployment(chosen, name, test) for name, test in tests.items()}
        speedup = chosen.evaluation.latency[self.bench.targets[0].name].speedup
        name = f"{speedup:.2f}x"
        described = Member(
            id=record.id,
            name=name,
            directory=f"{FRONT_FOLDER}/{rank:02d}_{name}",
            policy_digest=record.digest,
            strategy=strategy_words(policy.strategy),
            recovery_seed=record.seed,
            fidelity="full",
            feasible=chosen.feasible,
            deployments=deployments,
            warnings=(*self._warnings(chosen, removed, deployments[self.bench.targets[0].name]), *missing),
            seed_spread=seed_spread_of(self._recoveries(record)),
            sparsity={g.name: 0.0 for g in self.bench.space.groups} | removed,
            predicted=predicted_of(record),
            **sizes_of(chosen.evaluation.cost),
        )
        first = self.bench.targets[0].name
        subject = Subject(record.id, chosen.deployed.model, chosen.deployed.sessions[first], tests[first], record.seed)
        described = _with(described, self.examiner.examine(subject))
        self._first_tests[record.id] = tests[first]
        artifact = {t.name: ONNX_FILE if t.runtime == "onnxruntime" else WEIGHTS_FILE for t in self.bench.targets}
        self._save(chosen, described, exported)
        manifest = read_manifest(self.emission.directory.path / str(described.directory))
        forms = {
            name: form.model_copy(update={"artifact": artifact[name], "sha256": manifest[artifact[name]].sha256})
            for name, form in deployments.items()
        }
        return described.model_copy(update={"deployments": forms})

    def _warnings(self, chosen: Measured, removed: Mapping[str, float], deployment: Deployment) -> list[Warned]:
        speed = warnings_of(chosen, evaluation_of(self.emission.dense), self.bench.targets[0].name)
        shape = [*off_grid(self.bench.groups, removed), *zeros_warning(chosen.architecture)]
        notes = [Warned(code="note", text=text) for text in chosen.record.notes]
        return [*speed, *shape, *notes, *disagreements(deployment.quality.val, deployment.quality.test)]

    def _recoveries(self, record: CandidateRecord) -> list[CandidateRecord]:
        """Return the complete full records of a finalist's policy, itself included."""
        repeats = self.emission.repeats.get(record.digest, ())
        known = {r.id: r for r in (record, *repeats, *self.emission.records.values())}
        mine = [r for r in known.values() if r.digest == record.digest and r.fidelity == "full"]
        return [r for r in mine if r.state == "complete"]

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
            example=self._exporter.example,
            policy=policy.to_json(),
            architecture=chosen.architecture,
            metrics={"measured": facts.member, "predicted": facts.member["predicted"]},
            card=self._exporter.card(facts),
            formats=tuple(exported),
            exported=exported,
        )
        save_member(self.emission.directory.path / str(described.directory), artifact)

    def _deployment(self, chosen: Measured, target: str, test: Evaluated) -> Deployment:
        task, seed = self.bench.task, chosen.record.seed
        changes = compare(task, test, self._dense_test[target], seed=seed)
        return Deployment(
            quality=Quality(
                val=estimates_of(intervals(task, chosen.val[target], seed=seed)),
                test=estimates_of(intervals(task, test, seed=seed)),
            ),
            versus_dense={name: Change(**asdict(change)) for name, change in changes.items()},
            latency=latency_of(chosen.evaluation.latency[target], evaluation_of(self.emission.dense).latency[target]),
        )

    def with_pictures(self, front: FrontDocument, members: Sequence[Measured]) -> FrontDocument:
        """Write the pictures of the picks and return the front that knows them; the front as it is where it cannot."""
        first, picked = self.bench.targets[0].name, set(front.picks.values())
        shown = {
            m.record.id: Shown(m.architecture, m.val[first], self._first_tests[m.record.id])
            for m in members
            if m.record.id in picked
        }
        found = self.examiner.pictures(self.emission.directory.path / PICTURES_FILE, shown)
        return front.model_copy(update={"examination": found})

    def _test(self, session: Session, candidate: str) -> Evaluated:
        self.emission.events.add("test_read", id=candidate)  # first, so that one that is cut off is counted too
        return self.access.evaluate_test(predictor_of(session, self.bench.task))


def _with(member: Member, found: Examined) -> Member:
    """Return a member with what was found on looking into it."""
    return member.model_copy(update={**found.parts, "warnings": (*member.warnings, *found.warnings)})


def _document(emission: Emission, members: Sequence[tuple[Measured, Member]], scorer: Scorer) -> FrontDocument:
    bench, records = emission.bench, list(emission.records.values())
    wall, cpu = total_times(emission.directory.path / EVENTS_FILE)
    values = [chosen.values for chosen, _ in members]
    metrics, dense = bench.task.metrics, emission.dense.values
    controls, gain = _compared(emission)
    return FrontDocument(
        run=bench.config.name,
        objectives=tuple(ObjectiveInfo(**asdict(o)) for o in bench.objectives),
        constraints=_constraints(members),
        targets=scorer.targets,
        provenance=_provenance(emission, scorer),
        predictor=predictor_info(emission.trust),
        evaluations=counts_of(records),
        wall_seconds=wall,
        cpu_seconds=cpu,
        hypervolume=hypervolume_of(bench.objectives, metrics, values, dense),
        history=history_of(records, bench.objectives, metrics, dense),
        importance=_importance(emission),
        ended_because=emission.ended_because,
        picks=picks_of(bench.objectives, [m.id for _, m in members], values, [m.parameters for _, m in members]),
        baseline=scorer.dense_member,
        controls=controls,
        gain_over_best_control=gain,
        members=tuple(m for _, m in members),
    )


def _provenance(emission: Emission, scorer: Scorer) -> Provenance:
    names = versions()
    return Provenance(
        autoprune=names.get("autoprune", "unknown"),
        versions=names,
        seed=emission.bench.config.search.seed,
        config_sha256=emission.config_sha256,
        test_reads=scorer.access.reads,
        **emission.identity,
    )


def _compared(emission: Emission) -> tuple[dict[str, tuple[Member, ...]], Gain | None]:
    """Return the controls as members, and the gain over the best of them; constraints hold for both sides alike."""
    bench, records = emission.bench, list(emission.records.values())
    plan = plan_controls(bench, records, bench.config.search.controls)
    found = control_records(plan, records)
    complete = [r for r in searched(records) if r.state == "complete"]
    everyone = {r.id: r for r in (*complete, *(r for own in found.values() for r in own))}
    feasible = {i: is_feasible(emission.constraints, r) for i, r in everyone.items()}
    gain = gain_over(
        GainScale(bench.objectives, bench.task.metrics, emission.dense),
        [r for r in complete if feasible[r.id]],
        {name: [r for r in own if feasible[r.id]] for name, own in found.items()},
        np.random.default_rng(bench.config.search.seed),
    )
    return {name: control_members(name, own, emission.dense, feasible) for name, own in found.items()}, gain


def _importance(emission: Emission) -> Importance | None:
    bench, objective = emission.bench, emission.bench.objectives[0]
    metric = next((m for m in bench.task.metrics if m.name == objective.name), None)
    return importance_of(list(emission.records.values()), objective, metric, bench.config.search.seed)


def _constraints(members: Sequence[tuple[Measured, Member]]) -> tuple[Constraint, ...]:
    satisfied: dict[str, list[str]] = {}
    for chosen, member in members:
        for text, violation in chosen.violations.items():
            satisfied.setdefault(text, []).extend([member.id] if violation <= 0.0 else [])
    return tuple(Constraint(expression=text, satisfied_by=tuple(ids)) for text, ids in satisfied.items())


def _remove_documents(directory: Path) -> None:
    """Delete an earlier front's documents: what they say of a member's directory is about to become untrue."""
    for name in (REPORT_FILE, *[*FRONT_FILES][::-1], PICTURES_FILE):
        (directory / name).unlink(missing_ok=True)


def _write_documents(document: FrontDocument, directory: Path, losses: Losses) -> None:
    """Write the front's files and its page; only without `front.json` there is no front.

    Raises:
        StorageError: `front.json` cannot be written.
    """
    for name in FRONT_FILES:
        if name == FRONT_FILE:
            write_front_file(document, directory, name)
        else:
            with losses.noting(name):
                write_front_file(document, directory, name)
    with losses.noting(REPORT_FILE):
        write_report(directory)


def _remove_old(folder: Path, current: set[str]) -> None:
    """Delete members of an earlier front of the same run; what is no member's directory is left alone."""
    if folder.is_dir():
        for old in folder.iterdir():
            if old.name not in current and (old / MANIFEST).is_file():
                shutil.rmtree(old, ignore_errors=True)
