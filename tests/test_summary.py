"""What is said of a front: picks and warnings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from search_records import OBJECTIVES, TARGET, evaluation, record
from test_space import groups_of
from torch import nn

from autoprune.evaluation.types import Evaluation
from autoprune.groups.types import ArchitecturePlan
from autoprune.report.parts import Estimate
from autoprune.search.measured import Deployed, Measured
from autoprune.search.summary import disagreements, off_grid, picks_of, warnings_of

DENSE = evaluation(0.98, 10.0, macs=1000)


def measured(found: Evaluation) -> Measured:
    deployed = Deployed(nn.Identity(), None, {})
    return Measured(record(1, 0.9, 1.0), deployed, ArchitecturePlan({}), {}, found, {}, {})


def codes(found: Evaluation) -> list[str]:
    return [warning.code for warning in warnings_of(measured(found), DENSE, TARGET)]


def estimate(value: float, wide: float) -> Estimate:
    return Estimate(value=value, low=value - wide, high=value + wide, n=100, unit="image", method="wilson")


def test_picks_are_the_ends_the_knee_and_the_smallest() -> None:
    values = [
        {"accuracy": 0.98, "latency_ms": 8.0},
        {"accuracy": 0.97, "latency_ms": 2.0},
        {"accuracy": 0.80, "latency_ms": 1.0},
    ]
    picks = picks_of(OBJECTIVES, ["a", "b", "c"], values, [30, 5, 10])
    assert picks == {"most_accurate": "a", "balanced": "b", "fastest": "c", "smallest": "b"}
    assert picks_of(OBJECTIVES, [], [], []) == {}


def test_speed_in_proportion_to_macs_is_no_warning() -> None:
    assert codes(evaluation(0.97, 2.0, macs=200)) == []


def test_fewer_macs_without_speed_are_warned_of() -> None:
    assert codes(evaluation(0.97, 11.0, macs=500)) == ["not_faster"]


def test_a_target_bound_by_overhead_is_named() -> None:
    assert codes(evaluation(0.97, 8.0, macs=100)) == ["overhead_bound"]


def test_a_noisy_latency_is_named() -> None:
    found = evaluation(0.97, 2.0, macs=200)
    noisy = replace(found.latency[TARGET], clean=False, polluted_share=0.6)
    assert codes(replace(found, latency={TARGET: noisy})) == ["noisy_latency"]


@pytest.mark.parametrize(("kept", "told"), [(64, ""), (48, ""), (13, "keeps 13 of 64, no multiple of 8")])
def test_widths_off_the_grid_of_fast_ones_are_named(kept: int, told: str) -> None:
    found = off_grid(groups_of(64, 64), {"layer0": 1.0 - kept / 64, "layer1": 0.5})
    assert [w.code for w in found] == (["off_grid_width"] if told else [])
    assert told in "".join(w.text for w in found)


def test_narrow_groups_have_no_grid_to_leave() -> None:
    assert off_grid(groups_of(7), {"layer0": 3 / 7}) == ()


def test_val_and_test_that_disagree_beyond_their_intervals_are_named() -> None:
    val = {"accuracy": estimate(0.98, 0.005), "recall": estimate(0.9, 0.05)}
    assert disagreements(val, {"accuracy": estimate(0.975, 0.005), "recall": estimate(0.9, 0.05)}) == ()
    (warned,) = disagreements(val, {"accuracy": estimate(0.95, 0.005), "recall": estimate(0.89, 0.05)})
    assert warned.code == "val_test_differ"
    assert "0.98" in warned.text
    assert "0.95" in warned.text
