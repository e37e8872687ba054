"""Candidate records -> what the search saw: points off the front, predictions beside measurements, failures."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.markup import printable
from autoprune.records import CONTROL, CandidateRecord, Fidelity

_MESSAGE = 200


@dataclass(frozen=True)
class Candidate:
    """A measured candidate that is not on the front; `values` are those of val, at its own fidelity."""

    number: int
    fidelity: Fidelity
    origin: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """What was predicted before a measurement, and what was then measured."""

    number: int
    fidelity: Fidelity
    mean: float
    std: float
    measured: float


@dataclass(frozen=True)
class Failure:
    """Candidates that failed for one reason at one stage, with one of their messages."""

    reason: str
    stage: str
    count: int
    example: str


def candidates_of(
    records: Sequence[CandidateRecord], members: Collection[str], keys: Collection[str]
) -> tuple[Candidate, ...]:
    """Return the complete candidates of the search that have all the figures `keys` and are no members."""
    found = []
    for record in records:
        values = {key: value for key in keys if (value := _figure(record, key)) is not None}
        if _of_search(record) and record.id not in members and len(values) == len(keys):
            found.append(Candidate(record.number, record.fidelity, record.origin, values))
    return tuple(found)


def predictions_of(records: Sequence[CandidateRecord], key: str) -> tuple[Prediction, ...]:
    """Return predictions of one figure beside what was measured."""
    found = []
    for record in records:
        told = record.predicted.get(key)
        measured = _figure(record, key)
        if not isinstance(told, Mapping) or measured is None or record.state != "complete":
            continue
        mean, std = _number(told.get("mean")), _number(told.get("std"))
        if mean is not None:
            found.append(Prediction(record.number, record.fidelity, mean, max(std or 0.0, 0.0), measured))
    return tuple(found)


def failures_of(records: Sequence[CandidateRecord]) -> tuple[Failure, ...]:
    """Return failures by reason and stage, the most frequent first."""
    failed = [r.failure or {} for r in records if r.state == "failed"]
    kinds = [(f.get("reason", "unknown"), f.get("stage", "")) for f in failed]
    first = {kind: f.get("message", "") for kind, f in reversed(list(zip(kinds, failed, strict=True)))}
    return tuple(
        Failure(reason, stage, count, _one_line(first[reason, stage]))
        for (reason, stage), count in sorted(Counter(kinds).items(), key=lambda pair: (-pair[1], pair[0]))
    )


def stopped_of(records: Sequence[CandidateRecord]) -> tuple[tuple[int, int], ...]:
    """Return (last step reported, how many candidates were stopped there), by step."""
    steps = Counter(max((r.step for r in record.reports), default=0) for record in records if record.state == "stopped")
    return tuple(sorted(steps.items()))


def sparsity_by_id(records: Sequence[CandidateRecord]) -> dict[str, dict[str, float]]:
    """Return id -> group -> fraction removed, as the policies say."""
    found = {}
    for record in records:
        told = record.policy.get("sparsity")
        if isinstance(told, Mapping):
            shares = {str(group): _number(share) for group, share in told.items()}
            kept = {group: share for group, share in shares.items() if share is not None and 0.0 <= share <= 1.0}
            found[record.id] = {group: kept[group] for group in sorted(kept, key=_natural)}
    return found


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the points, evenly taken."""
    if len(points) <= most:
        return list(points)
    return [points[int(i * len(points) / most)] for i in range(most)]


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts `layer2` before `layer10`."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _of_search(record: CandidateRecord) -> bool:
    searched = record.state == "complete" and record.number > 0 and record.repeat == 0
    return searched and not record.origin.startswith(CONTROL)


def _figure(record: CandidateRecord, key: str) -> float | None:
    """Return an objective's value, or else a size that was measured."""
    if key in record.values:
        return _number(record.values[key])
    cost = (record.evaluation or {}).get("cost")
    return _number(cost.get(key)) if isinstance(cost, Mapping) else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _one_line(message: str) -> str:
    line = printable(next((part for part in message.splitlines() if part.strip()), ""))
    return line if len(line) <= _MESSAGE else f"{line[: _MESSAGE - 1]}…"
