"""A whole small run with controls: what the front document says beside its members."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from test_search import load, run_dir

from autoprune.predictor.trust import Outcome, TrustLog
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.document import FrontDocument
from autoprune.search.describe import TrustFigures, predictor_info, seed_spread_of
from autoprune.search.run import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrontDocument, list[CandidateRecord], Path]:
    """The front of a run with two candidates a control, its records and its directory."""
    folder = tmp_path_factory.mktemp("emission")
    overrides = (
        "search.controls=2",
        "search.budget.evaluations=4",
        "recovery.finalists=2",
        "recovery.seeds=2",
        "latency.targets=[torch-eager-fp32-b4-t1]",
        "objectives=[accuracy, macs]",
    )
    front = run(load(folder, *overrides, sampler="random")).front
    return front, RecordStore(run_dir(folder)).load_all(), run_dir(folder)


Finished = tuple[FrontDocument, list[CandidateRecord], Path]


def test_controls_stand_in_the_document_measured_on_val(finished: Finished) -> None:
    front, records, _ = finished
    assert {"uniform", "random", "global_magnitude"} <= set(front.controls)
    known = {r.id for r in records}
    for members in front.controls.values():
        assert 1 <= len(members) <= 2
        for member in members:
            assert member.id in known
            assert member.directory is None
            assert front.deployment(member).quality.val["accuracy"].n > 0
            assert not front.deployment(member).quality.test
    assert front.evaluations.controls == sum(r.is_control for r in records) > 0


def test_the_gain_over_the_best_control_has_an_interval(finished: Finished) -> None:
    gain = finished[0].gain_over_best_control
    assert gain is not None
    assert gain.control in finished[0].controls
    assert gain.low <= gain.value <= gain.high


def test_controls_are_no_candidates_of_the_search(finished: Finished) -> None:
    front, records, _ = finished
    assert front.evaluations.short == 4
    assert front.evaluations.full == 2
    controls = {r.id for r in records if r.is_control}
    assert not controls & {m.id for m in front.members}
    assert len(front.history) == 6
    assert [p.evaluation for p in front.history] == list(range(1, 7))


def test_history_never_falls_within_a_fidelity(finished: Finished) -> None:
    for fidelity in ("short", "full"):
        volumes = [p.hypervolume for p in finished[0].history if p.fidelity == fidelity]
        assert volumes == sorted(volumes)
        assert volumes[-1] > 0.0


def test_members_tell_their_sparsity_quantiles_and_spread_over_seeds(finished: Finished) -> None:
    front, records, _ = finished
    policies = {r.id: r.policy["sparsity"] for r in records}
    for member in front.members:
        assert {k: v for k, v in member.sparsity.items() if v > 0.0} == policies[member.id]
        spread = member.seed_spread["accuracy"]
        assert len(spread.values) == 2
        latency = front.deployment(member).latency
        assert latency is not None
        assert latency.ms <= latency.quantiles_ms[0] <= latency.quantiles_ms[-1]
    assert finished[0].ended_because


def test_the_page_is_written_with_the_front(finished: Finished) -> None:
    assert (finished[2] / "report.html").stat().st_size > 10_000


def test_trust_figures_become_the_predictors_part_of_the_document() -> None:
    log = TrustLog([Outcome(0.1 * i, 0.05, 0.1 * i + 0.01, 100.0 + i, i, "short") for i in range(1, 31)])
    info = predictor_info(TrustFigures(log, weights={"trees": 1.0}))
    assert info is not None
    assert info.kendall_tau == pytest.approx(1.0)
    assert info.cost_only.kendall_tau == pytest.approx(-1.0)
    assert (info.n, info.fallback_used, info.weights) == (30, False, {"trees": 1.0})
    assert [r.evaluation for r in info.rounds] == [10, 20, 30]
    fallen = predictor_info(TrustFigures(log, "the prior orders better"))
    assert fallen is not None
    assert (fallen.fallback_used, fallen.fallback_reason) == (True, "the prior orders better")
    assert predictor_info(None) is None
    assert predictor_info(TrustFigures(TrustLog())) is None


def test_one_recovery_has_no_spread(finished: Finished) -> None:
    full = next(r for r in finished[1] if r.fidelity == "full" and r.number > 0)
    assert seed_spread_of([full]) == {}
    assert seed_spread_of([full, dataclasses.replace(full, repeat=1)])["accuracy"].std == 0.0
