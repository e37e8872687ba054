"""The front as a document: what `front.json` holds, and everything that reports are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, ValidationError, model_validator

from autoprune.errors import StorageError
from autoprune.report.examined import Agreement, ClassQuality, Condition, Examination, Stability
from autoprune.report.parts import Change, Count, Estimate, Part, RelativePath, Sha256, Share
from autoprune.storage import dump_json, parse_json, read_regular

FRONT_LIMIT = 64 << 20
DIGEST = "sha256"
_SHOWN_PROBLEMS = 3


class Objective(Part):
    """What was optimised; `target` names the deployment of a latency, `scale` the scale on which it is compared."""

    name: str
    direction: Literal["min", "max"]
    unit: str
    target: str | None = None
    scale: Literal["linear", "log"] = "linear"


class Constraint(Part):
    """A demand on the models, with the ids of the members that satisfy it."""

    expression: str
    satisfied_by: tuple[str, ...] = ()


class TargetInfo(Part):
    """Where and how one latency was measured."""

    runtime: str
    runtime_version: str
    precision: str
    batch: int
    threads: int
    shape: str
    device: str
    host: str
    protocol: str


class Provenance(Part):
    """What the run was made with; `test_reads` counts how often the test split was read."""

    autoprune: str
    commit: str | None = None
    versions: dict[str, str]
    seed: int
    task_sha256: str
    data_fingerprint: str
    config_sha256: str
    test_reads: Count


class CostOnly(Part):
    """How well cost alone predicts quality: what a predictor has to beat."""

    kendall_tau: float | None = None
    concordance: float | None = None


class TrustRound(Part):
    """How far predictions were right up to a round; `evaluation` counts the candidates recorded by then."""

    evaluation: Count
    fidelity: Literal["proxy", "short", "full"]
    n: Count
    kendall_tau: float | None = None
    same_cost_concordance: float | None = None
    cost_only: CostOnly = CostOnly()
    mean_absolute_error: float | None = None
    coverage_90: float | None = None


class PredictorInfo(Part):
    """How far the learned predictor was right on candidates it had not seen."""

    kendall_tau: float | None = None
    same_cost_concordance: float | None = None
    cost_only: CostOnly = CostOnly()
    mean_absolute_error: float | None = None
    coverage_90: float | None = None
    n: Count
    fallback_used: bool
    fallback_reason: str | None = None
    weights: dict[str, float] = Field(default_factory=dict)
    rounds: tuple[TrustRound, ...] = ()


class EvaluationCounts(Part):
    """Candidates evaluated at each fidelity, and those that failed."""

    proxy: Count = 0
    short: Count = 0
    full: Count = 0
    failed: Count = 0
    stopped: Count = 0
    controls: Count = 0


class Hypervolume(Part):
    """Volume dominated by the front in minimised, normalised objectives.

    `reference` is the worst corner; `normalisation` gives each objective's (best, worst) that become 0 and 1.
    """

    value: float
    reference: tuple[float, ...]
    normalisation: dict[str, tuple[float, float]]


class HistoryPoint(Part):
    """Hypervolume of the candidates of one fidelity after evaluation number `evaluation` of the run."""

    evaluation: Count
    fidelity: Literal["proxy", "short", "full"]
    hypervolume: NonNegativeFloat


class Importance(Part):
    """Share of the predicted quality's variation that each group's sparsity and each choice explains; sums to 1."""

    groups: dict[str, float]
    choices: dict[str, float] = Field(default_factory=dict)
    method: str


class SeedSpread(Part):
    """A metric on val of the same policy recovered with several seeds: apart from the sampling error."""

    values: tuple[float, ...]
    std: NonNegativeFloat


class LatencyResult(Part):
    """Milliseconds a batch, and the speed-up (dense / pruned) measured in the same interleaved rounds.

    `quantiles_ms` are the 5%, 25%, 50%, 75% and 95% quantiles of the clean samples, on the scale of `ms`.
    """

    ms: Annotated[float, Field(gt=0.0)]
    low: float
    high: float
    samples: Count
    speedup: float
    speedup_low: float
    speedup_high: float
    clean: bool
    polluted_share: Share
    quantiles_ms: tuple[float, ...] = ()


class Quality(Part):
    """Metrics per split; `test` was read once, for the front."""

    val: dict[str, Estimate] = Field(default_factory=dict)
    test: dict[str, Estimate] = Field(default_factory=dict)


class Deployment(Part):
    """One deployed form of a member: `artifact` is its file in the member's directory."""

    artifact: str | None = None
    sha256: Sha256 | None = None
    quality: Quality = Quality()
    versus_dense: dict[str, Change] = Field(default_factory=dict)
    latency: LatencyResult | None = None


class Predicted(Part):
    """What the predictor expected of a candidate, as the search recovers it, before evaluation `at_evaluation`."""

    mean: float
    std: NonNegativeFloat
    at_evaluation: Count


class Warned(Part):
    """Something a user should know about a member."""

    code: str
    text: str


class Member(Part):
    """One model: the dense one, a control or a member of the front. `directory` is relative to the document."""

    id: str
    name: str
    directory: RelativePath | None = None
    policy_digest: str | None = None
    strategy: str
    recovery_seed: int | None = None
    seed_spread: dict[str, SeedSpread] = Field(default_factory=dict)
    sparsity: dict[str, Share] = Field(default_factory=dict)
    fidelity: Literal["proxy", "short", "full"]
    feasible: bool
    parameters: Count
    nonzero: Count
    macs: Count
    bytes: Count
    compressed_bytes: Count
    peak_memory_bytes: Count | None = None
    deployments: dict[str, Deployment]
    predicted: dict[str, Predicted] = Field(default_factory=dict)
    robustness: dict[str, Condition] = Field(default_factory=dict)
    stability: Stability | None = None
    agreement: Agreement | None = None
    classes: tuple[ClassQuality, ...] = ()
    warnings: tuple[Warned, ...] = ()


class Gain(Part):
    """Gain in hypervolume over the best control, `control`, with its 95% interval."""

    control: str
    value: float
    low: float
    high: float


class FrontDocument(Part):
    """A finished run's front, as `front.json` holds it."""

    schema_version: Literal["1.0"] = "1.0"
    run: str
    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    targets: dict[str, TargetInfo] = Field(min_length=1)
    provenance: Provenance
    predictor: PredictorInfo | None = None
    evaluations: EvaluationCounts
    wall_seconds: NonNegativeFloat
    cpu_seconds: NonNegativeFloat
    gpu_seconds: NonNegativeFloat = 0.0
    examination: Examination | None = None
    hypervolume: Hypervolume | None = None
    history: tuple[HistoryPoint, ...] = ()
    importance: Importance | None = None
    ended_because: str | None = None
    picks: dict[Literal["most_accurate", "balanced", "fastest", "smallest"], str] = Field(default_factory=dict)
    baseline: Member
    controls: dict[str, tuple[Member, ...]] = Field(default_factory=dict)
    gain_over_best_control: Gain | None = None
    members: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> FrontDocument:
        ids = [member.id for member in self.members]
        if len(set(ids)) != len(ids):
            raise ValueError("two members have the same id")
        strangers = sorted(set(self.picks.values()) - set(ids))
        if strangers:
            raise ValueError(f"picks name no member: {', '.join(strangers)}")
        unknown = sorted({o.target for o in self.objectives if o.target is not None} - set(self.targets))
        if unknown:
            raise ValueError(f"objectives name unknown targets: {', '.join(unknown)}")
        for member in (self.baseline, *self.members):
            missing = [o.name for o in self.objectives if o.name not in self.values(member)]
            if missing:
                raise ValueError(f"member {member.id!r} has no value of {', '.join(missing)}")
        return self

    @property
    def first_target(self) -> str:
        """The target of the objectives, or else the first one."""
        named = [o.target for o in self.objectives if o.target is not None]
        return named[0] if named else next(iter(self.targets))

    @property
    def metric(self) -> Objective:
        """The first objective: the quality that everything else is traded against."""
        return self.objectives[0]

    def deployment(self, member: Member) -> Deployment:
        """Return a member's form on the first target; an empty one where it has none."""
        return member.deployments.get(self.first_target, Deployment())

    def estimates(self, member: Member) -> Mapping[str, Estimate]:
        """Return a member's metrics on the first target: of `test` where it was read, else of `val`."""
        quality = self.deployment(member).quality
        return {**quality.val, **quality.test}

    def values(self, member: Member) -> dict[str, float]:
        """Return every figure of a member that can be compared, by name, on the first target."""
        found = {name: estimate.value for name, estimate in self.estimates(member).items()}
        latency = self.deployment(member).latency
        if latency is not None:
            found |= {"latency_ms": latency.ms, "speedup": latency.speedup}
        sizes = ("parameters", "nonzero", "macs", "bytes", "compressed_bytes")
        return found | {name: float(getattr(member, name)) for name in sizes}

    def to_json(self) -> dict[str, Any]:
        """Return the document as plain JSON values."""
        return self.model_dump(mode="json")

    def to_bytes(self) -> bytes:
        """Return the bytes of `front.json`: the document with its own digest, so that an altered figure shows."""
        document = self.to_json()
        return dump_json({**document, DIGEST: _digest_of(document)})


def read_front(path: Path) -> FrontDocument:
    """Read and check a front document, which is not trusted.

    Args:
        path: The file, or the run directory that holds `front.json`.

    Raises:
        StorageError: It is missing, too large, altered or no front document of this version.
    """
    file = path / "front.json" if path.is_dir() else path
    try:
        return FrontDocument.model_validate(_without_digest(parse_json(read_regular(file, limit=FRONT_LIMIT))))
    except OSError as error:
        hint = "Give the directory of a finished run; `autoprune status NAME` tells whether it is."
        raise StorageError(f"Cannot read {file}: {error.strerror}.", hint=hint) from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors()]
        shown = "; ".join(problems[:_SHOWN_PROBLEMS])
        raise _unreadable(file, f"{len(problems)} problems: {shown}") from error
    except ValueError as error:
        raise _unreadable(file, str(error)) from error


def _without_digest(document: Any) -> Any:
    """Return a document without its own digest, which has to be right where there is one."""
    stated = document.pop(DIGEST, None) if isinstance(document, dict) else None
    if stated not in (None, _digest_of(document)):
        raise ValueError(f"its {DIGEST} is that of another document")
    return document


def _digest_of(document: Any) -> str:
    return hashlib.sha256(dump_json(document)).hexdigest()


def _unreadable(file: Path, reason: str) -> StorageError:
    return StorageError(
        f"{file} is no front document of version 1.0: {reason}.",
        hint="It was altered or written by another version; run the search again to have it rebuilt.",
    )
