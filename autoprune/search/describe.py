"""What was measured, recorded and learnt -> parts of the front document."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from autoprune.evaluation.types import Cost, Interval, Latency
from autoprune.groups.types import ModelGroups
from autoprune.policy import Policy
from autoprune.predictor.trust import TrustLog, TrustRound
from autoprune.records import CandidateRecord
from autoprune.report.document import (
    CostOnly,
    Deployment,
    EvaluationCounts,
    LatencyResult,
    Member,
    Predicted,
    PredictorInfo,
    Quality,
    SeedSpread,
    TargetInfo,
)
from autoprune.report.document import TrustRound as TrustRoundInfo
from autoprune.report.parts import Change, Estimate
from autoprune.runtimes import Target, device_name
from autoprune.search.directory import cpu_name
from autoprune.search.summary import searched
from autoprune.search.workbench import Workbench, evaluation_of

PROTOCOL = (
    "interleaved with the dense model in random order, in several passes through all finalists; speed-up = geometric "
    "mean of the paired rounds; ms = the run's dense reference / speed-up"
)


@dataclass(frozen=True)
class TrustFigures:
    """What is known of the predictor of a run.

    Args:
        log: Its predictions and what came of them.
        fallback_reason: Why the search went on without it; None where it was used to the end.
        weights: Member of the ensemble -> its weight in the last round.
    """

    log: TrustLog
    fallback_reason: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


def predictor_info(trust: TrustFigures | None) -> PredictorInfo | None:
    """Return how far a predictor was right: over all predictions of the last fidelity, and round by round."""
    figures = None if trust is None else trust.log.figures()
    if trust is None or figures is None:
        return None
    return PredictorInfo(
        kendall_tau=figures.kendall_tau,
        same_cost_concordance=figures.same_cost_concordance,
        cost_only=CostOnly(**asdict(figures.cost_only)),
        mean_absolute_error=figures.mean_absolute_error,
        coverage_90=figures.coverage_90,
        n=figures.n,
        fallback_used=trust.fallback_reason is not None,
        fallback_reason=trust.fallback_reason,
        weights=dict(trust.weights),
        rounds=tuple(_round(one) for one in trust.log.rounds()),
    )


def control_members(
    name: str, records: Sequence[CandidateRecord], dense: CandidateRecord, feasible: Mapping[str, bool]
) -> tuple[Member, ...]:
    """Return a control's candidates as members without a directory, fastest last: measured on val, once.

    Args:
        name: Of the control.
        records: Its complete records.
        dense: The dense model's record, whose latency is the run's scale.
        feasible: Record id -> whether every constraint holds.
    """
    reference = evaluation_of(dense)
    members = []
    for record in records:
        evaluation = evaluation_of(record)
        quality = Quality(val=estimates_of(evaluation.quality["val"]))
        changes = {metric: Change(**asdict(change)) for metric, change in evaluation.versus_dense.items()}
        deployments = {
            target: Deployment(
                quality=quality, versus_dense=changes, latency=latency_of(latency, reference.latency[target])
            )
            for target, latency in evaluation.latency.items()
        }
        speedup = next(iter(evaluation.latency.values())).speedup
        members.append(
            Member(
                id=record.id,
                name=f"{name.replace('_', ' ')} {speedup:.2f}x",
                policy_digest=record.digest if Policy.from_json(record.policy).removes else None,
                strategy=name,
                recovery_seed=record.seed,
                sparsity=dict(record.policy["sparsity"]),
                fidelity=record.fidelity,
                feasible=feasible[record.id],
                deployments=deployments,
                **sizes_of(evaluation.cost),
            )
        )
    return tuple(sorted(members, key=lambda m: -m.macs))


def counts_of(records: Sequence[CandidateRecord]) -> EvaluationCounts:
    """Count the search's candidates by fidelity, those that failed or were stopped, and the controls'."""
    own = searched(records)
    complete = Counter(str(r.fidelity) for r in own if r.state == "complete")
    return EvaluationCounts(
        **complete,
        failed=sum(r.state == "failed" for r in own),
        stopped=sum(r.state == "stopped" for r in own),
        controls=sum(r.is_control and r.state == "complete" for r in records),
    )


def seed_spread_of(records: Sequence[CandidateRecord]) -> dict[str, SeedSpread]:
    """Return metric -> its values on val over the recoveries of one policy; empty for a single recovery."""
    if len(records) < 2:
        return {}
    found = [evaluation_of(r).quality["val"] for r in sorted(records, key=lambda r: r.repeat)]
    values = {name: tuple(one[name].value for one in found) for name in found[0]}
    return {name: SeedSpread(values=own, std=float(np.std(own, ddof=1))) for name, own in values.items()}


def predicted_of(record: CandidateRecord) -> dict[str, Predicted]:
    """Return what the predictor expected of a candidate, by objective."""
    return {name: Predicted(**dict(expected)) for name, expected in record.predicted.items()}


def parts_by_kind(groups: ModelGroups) -> dict[str, int]:
    """Return kind -> how many weight tensors, blocks, activations, norms, poolings and biases can be pruned."""
    tensors = sum(part.kind == "tensor" for part in groups.parts)
    others = {str(part.kind): part.width for part in groups.parts if part.kind != "tensor"}
    return {"tensor": tensors, **others} if tensors else others


def target_info(bench: Workbench, target: Target) -> TargetInfo:
    """Return where and how latency is measured on a target."""
    return TargetInfo(
        runtime=target.runtime,
        runtime_version=bench.dense.sessions[target.name].runtime_version,
        precision=target.precision,
        batch=target.batch,
        threads=target.threads,
        shape="default",
        device=cpu_name() if target.device == "cpu" else device_name(torch.device(target.device)),
        host=platform.node(),
        protocol=PROTOCOL,
    )


def latency_of(latency: Latency, reference: Latency) -> LatencyResult:
    """Return a latency on the run's one scale: that of the dense reference divided by the measured speed-up."""
    ms = reference.ms / latency.speedup
    return LatencyResult(
        ms=ms,
        low=reference.low / latency.speedup_high,
        high=reference.high / latency.speedup_low,
        samples=latency.samples,
        speedup=latency.speedup,
        speedup_low=latency.speedup_low,
        speedup_high=latency.speedup_high,
        clean=latency.clean and reference.clean,
        polluted_share=latency.polluted_share,
        quantiles_ms=tuple(q * ms / latency.ms for q in latency.quantiles_ms),
    )


def estimates_of(found: Mapping[str, Interval]) -> dict[str, Estimate]:
    """Return metrics with their intervals."""
    return {name: Estimate(**asdict(interval)) for name, interval in found.items()}


def sizes_of(cost: Cost) -> dict[str, int]:
    """Return a member's sizes by field."""
    return asdict(cost)


def _round(one: TrustRound) -> TrustRoundInfo:
    return TrustRoundInfo.model_validate(asdict(one))
