"""Importance of groups and choices: what decides quality leads, what does not is near nothing."""

from __future__ import annotations

import numpy as np
import pytest
from search_records import ACCURACY, OBJECTIVES, record

from autoprune.records import CandidateRecord, Fidelity
from autoprune.search.importance import importance_of


def records(count: int, *, fidelity: Fidelity = "short", choice: float = 0.0) -> list[CandidateRecord]:
    """Return candidates whose accuracy falls with `tender` alone, and by `choice` under l2."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(1, count + 1):
        tender, robust = rng.uniform(0.05, 0.9, size=2)
        criterion = "l1" if rng.random() < 0.5 else "l2"
        accuracy = 0.98 - 0.6 * tender**2 - (choice if criterion == "l2" else 0.0)
        macs = int(1e6 * (2.0 - tender - robust))
        sparsity, strategy = {"tender": tender, "robust": robust}, {"criterion": criterion}
        found.append(record(number, accuracy, 1.0, sparsity=sparsity, strategy=strategy, macs=macs, fidelity=fidelity))
    return found


def test_the_group_that_decides_quality_leads_and_shares_sum_to_one() -> None:
    found = importance_of(records(60), OBJECTIVES[0], ACCURACY, seed=0)
    assert found is not None
    assert found.groups["tender"] > 3.0 * found.groups["robust"]
    assert found.choices["criterion"] < 0.1
    assert sum(found.groups.values()) + sum(found.choices.values()) == pytest.approx(1.0)
    assert "60 short" in found.method


def test_a_choice_that_decides_quality_leads() -> None:
    found = importance_of(records(60, choice=0.3), OBJECTIVES[0], ACCURACY, seed=0)
    assert found is not None
    assert found.choices["criterion"] > 0.3


def test_the_fidelity_with_most_candidates_is_taken() -> None:
    found = importance_of([*records(22), *records(40, fidelity="proxy")], OBJECTIVES[0], ACCURACY, seed=0)
    assert found is not None
    assert "40 proxy" in found.method


def test_choices_of_single_groups_are_added_up() -> None:
    rng = np.random.default_rng(0)
    found = []
    for one in records(60):
        overrides = {name: {"criterion": "l2"} for name in ("tender", "robust") if rng.random() < 0.5}
        found.append(CandidateRecord.from_json(one.to_json() | {"policy": {**one.policy, "overrides": overrides}}))
    importance = importance_of(found, OBJECTIVES[0], ACCURACY, seed=0)
    assert importance is not None
    assert set(importance.choices) == {"criterion"}


def test_few_records_or_equal_qualities_tell_nothing() -> None:
    assert importance_of(records(19), OBJECTIVES[0], ACCURACY, seed=0) is None
    same = [record(n, 0.9, 1.0, sparsity={"conv": n / 100}) for n in range(1, 31)]
    assert importance_of(same, OBJECTIVES[0], ACCURACY, seed=0) is None
    assert importance_of([], OBJECTIVES[0], ACCURACY, seed=0) is None
