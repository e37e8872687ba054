"""One evaluated candidate as data. No disk here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Fidelity = Literal["proxy", "short", "full"]
State = Literal["complete", "failed", "stopped"]
RECORD_VERSION = "1.0"
CONTROL = "control:"


def candidate_id(digest: str, fidelity: Fidelity, repeat: int = 0) -> str:
    """Return the id of a candidate: equal policies at equal fidelity and seed share it, so none is stored twice.

    Args:
        digest: Digest of the policy, 64 hexadecimal digits.
        fidelity: How much training the candidate got.
        repeat: Number of the recovery seed, from 0.
    """
    return f"{digest[:16]}-{fidelity}" + (f"-r{repeat}" if repeat else "")


@dataclass(frozen=True)
class Report:
    """An intermediate value of a candidate on val, turned to be minimised.

    Args:
        step: Optimizer steps taken by then.
        value: The task's signal, or else its first metric.
    """

    step: Annotated[int, Ge(0)]
    value: float


@dataclass(frozen=True)
class CandidateRecord:
    """What was proposed, what came out, and how long it took.

    Args:
        id: Lower-case letters, digits and hyphens; names the record's directory.
        number: Order of proposal within the run, from 0.
        state: `complete` where every measurement succeeded, `stopped` where it was ended early at a rung.
        policy: `Policy.to_json()`.
        digest: Digest of the policy.
        fidelity: How much training the candidate got.
        seed: Seed of the candidate's own randomness.
        values: Objective -> value as the user reads it; empty unless complete.
        evaluation: Everything measured, as plain JSON: of a stopped one its `cost` alone; None where failed.
        failure: `reason`, `stage` and `message`; None unless failed.
        proposal: The sampler's `params`, `distributions` and `system_attrs`, as plain JSON.
        predicted: Objective -> `mean`, `std` and `at_evaluation` that the predictor stated before the measurement.
        host: Where it ran.
        seconds: Wall seconds spent on it.
        created: UTC time of writing, ISO 8601; for reading, never for order.
        origin: Who proposed it, such as `seeding`, `infill`, `warm_start`, `finalist` or `control:uniform`.
        repeat: Number of the recovery seed, from 0.
        reports: Intermediate values at the rungs it passed, in order.
        cpu_seconds: Processor seconds spent on it, all threads.
        device: What trained it, such as `cpu` or `cuda:NVIDIA H200`.
        measured_on: Host that timed it, where that is another worker's.
        notes: What a reader should know of how it was pruned.
    """

    id: str
    number: Annotated[int, Ge(0)]
    state: State
    policy: Mapping[str, Any]
    digest: str
    fidelity: Fidelity
    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, Any] | None = None
    failure: Mapping[str, str] | None = None
    proposal: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    seconds: float = 0.0
    created: str = ""
    origin: str = ""
    repeat: Annotated[int, Ge(0)] = 0
    reports: tuple[Report, ...] = ()
    cpu_seconds: float = 0.0
    device: str = ""
    measured_on: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_control(self) -> bool:
        """Whether it belongs to a control, which neither the sampler nor the run's own front learns of."""
        return self.origin.startswith(CONTROL)

    @property
    def is_unfinished(self) -> bool:
        """Whether it is trained and not timed yet: neither complete nor failed for any reason."""
        return self.state == "failed" and self.failure is None

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON values, with its schema version."""
        return {"schema_version": RECORD_VERSION, **_adapter().dump_python(self)}

    @classmethod
    def from_json(cls, document: Any) -> CandidateRecord:
        """Build a record from untrusted JSON.

        Raises:
            ValueError: It is not a record of this version.
        """
        if not isinstance(document, dict) or document.get("schema_version") != RECORD_VERSION:
            raise ValueError(f"not a candidate record of version {RECORD_VERSION}")
        return _adapter().validate_python({k: v for k, v in document.items() if k != "schema_version"})


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of `record.json`."""
    schema = _adapter().json_schema()
    schema["properties"] = {"schema_version": {"const": RECORD_VERSION, "type": "string"}, **schema["properties"]}
    schema["required"] = ["schema_version", *schema["required"]]
    return schema


@functools.cache
def _adapter() -> TypeAdapter[CandidateRecord]:
    from pydantic import ConfigDict, TypeAdapter, with_config

    strict = with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
    return TypeAdapter(strict(CandidateRecord))
