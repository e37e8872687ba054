"""One policy, no search -> one emitted model: pruned, recovered, measured, scored and written as the front's are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from autoprune.compatibility import check_policy
from autoprune.config import LoadedConfig, config_digest
from autoprune.errors import CandidateError, TaskError
from autoprune.policy import Policy
from autoprune.records import CandidateRecord
from autoprune.report.document import Member
from autoprune.search.check import load_checked_task, setup_of
from autoprune.search.directory import EVENTS_FILE, EventLog, RunDirectory
from autoprune.search.emit import Emission, Scorer
from autoprune.search.executors.base import Job
from autoprune.search.losses import Losses
from autoprune.search.measured import deploy_all, measure_finalists
from autoprune.search.objectives import constraints_of
from autoprune.search.workbench import Workbench, evaluation_of


@dataclass(frozen=True)
class SinglePruned:
    """An emitted model.

    Args:
        member: The model, as `front.json` describes one; its directory is relative to the folder given.
        baseline: The dense model in the same form.
        notes: What a reader should know, such as how near the result comes to what was asked.
    """

    member: Member
    baseline: Member
    notes: tuple[str, ...]


def prune_single(loaded: LoadedConfig, policy: Policy, folder: Path) -> SinglePruned:
    """Prune the model of a configuration by one policy, recover it in full and write it below a folder.

    Nothing of the configuration's search is used, and no run directory is made.

    Args:
        loaded: The configuration: task, recovery budget, latency targets.
        policy: What to prune.
        folder: Empty; takes records and the model's directory.

    Raises:
        ConfigError: The policy does not fit the model.
        CandidateError: Pruning or recovery failed.
        PartialResultError: The model could not be exported or measured.
    """
    reference, task, _ = load_checked_task(loaded)
    bench = Workbench(replace(setup_of(loaded, reference), directory=folder), task)
    check_policy(bench.groups, policy)
    bench.require_dense()
    dense = _evaluated(bench, Job(0, Policy({}), "full"))
    bench.setup = replace(bench.setup, dense_ms=evaluation_of(dense).latency[bench.targets[0].name].ms)
    pruned = _evaluated(bench, Job(1, policy, "full", origin="single"))
    emission, losses = _emission(bench, loaded, dense, pruned), Losses()
    deployed = deploy_all(bench, bench.model)
    measured = measure_finalists(bench, deployed, [pruned], emission.constraints, losses)
    if not measured:
        losses.report(0, folder)
    scorer = Scorer(emission, deployed, losses)
    member = scorer.member(measured[0], 1)
    losses.report(1, folder)
    return SinglePruned(member, scorer.dense_member, _reached(policy, member, scorer.dense_member))


def _evaluated(bench: Workbench, job: Job) -> CandidateRecord:
    record = bench.run(job)
    if record.state != "complete":
        failure = record.failure or {}
        text = f"{failure.get('message')}"
        if job.number == 0:
            raise TaskError(f"The dense model cannot be evaluated: {text}", hint="`autoprune check` tells more.")
        raise CandidateError(text, reason="error", stage=str(failure.get("stage", "prune")))
    return record


def _emission(bench: Workbench, loaded: LoadedConfig, dense: CandidateRecord, pruned: CandidateRecord) -> Emission:
    directory = RunDirectory(bench.setup.directory)
    metric = bench.task.metrics[0].name
    return Emission(
        bench=bench,
        directory=directory,
        events=EventLog(directory.path / EVENTS_FILE),
        constraints=constraints_of(loaded.config, bench.task, evaluation_of(dense).quality["val"][metric].value),
        identity={"task_sha256": bench.setup.task.sha256, "data_fingerprint": bench.task.fingerprint},
        config_sha256=config_digest(loaded.config),
        records={dense.id: dense, pruned.id: pruned},
        dense=dense,
    )


def _reached(policy: Policy, member: Member, baseline: Member) -> tuple[str, ...]:
    """Say how near a share of the MACs that was asked for is reached."""
    amount = policy.amount
    if amount is None or amount.kind != "macs":
        return ()
    share = member.macs / baseline.macs
    told = f"{share:.1%} of the multiply-accumulates stay; asked for at most {amount.value:.1%}."
    if share > amount.value:
        return (f"{told} The schedule took cuts back.",)
    if share < 0.96 * amount.value:
        return (f"{told} It is the nearest below that can be had.",)
    return (told,)
