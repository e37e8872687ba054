"""Candidate records for tests; imports nothing heavy, so that killed writers start fast."""

from __future__ import annotations

from dataclasses import replace

from autoprune.records import CandidateRecord

RECORD = CandidateRecord(
    id="0123456789abcdef-short",
    number=0,
    state="complete",
    policy={"sparsity": {"layer1.<script>": 0.5}, "strategy": {}, "overrides": {}},
    digest=64 * "0",
    fidelity="short",
    seed=7,
    values={"accuracy": 0.97, "latency_ms": 1.5},
    evaluation={"quality": {"val": {"accuracy": {"value": 0.97}}}},
    proposal={"params": {"a": 1}},
    host="here",
    seconds=0.25,
    created="2026-01-01T00:00:00+00:00",
)


def numbered(number: int) -> CandidateRecord:
    """Return a complete record whose id follows from its number."""
    return replace(RECORD, id=f"{number:016x}-short", number=number)
