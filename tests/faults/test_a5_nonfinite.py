"""A5: what cannot be is FAILED(nonfinite): it never reaches the front, nor the data that the predictor learns from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sampler_cases
import tiny
from acts import replayed_latency, write_config
from checks import Watched
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState
from stage import Stage

from autoprune.config import load_config
from autoprune.evaluation.types import Cost, Latency
from autoprune.records import RecordStore
from autoprune.search import workbench
from autoprune.search.check import setup_of
from autoprune.search.executors.base import Job
from autoprune.search.finalists import choose_finalists
from autoprune.search.genome import Genome
from autoprune.search.objectives import constraints_of
from autoprune.search.observations import observe
from autoprune.search.outbox import Outbox
from autoprune.search.study import trial_of
from autoprune.search.workbench import Workbench
from autoprune.tasks import TaskRef
from autoprune.tasks.protocol import Evaluated

VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "zero": 0.0, "negative": -1.0, "huge": 1e300}
POSSIBLE = {("metric", "zero"), ("signal", "zero"), ("cost", "zero")}
"""An accuracy, a loss and a count of 0 are poor or odd, yet can be."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    loaded = load_config(write_config(tmp_path_factory.mktemp("run")), environ={})
    made = Workbench(setup_of(loaded, TaskRef(loaded.config.task, {}, loaded.base)), tiny.make_task())
    made.require_dense()
    return made


def spoiled_evaluation(name: str, value: float, evaluate: Callable[..., Evaluated]) -> Callable[..., Evaluated]:
    def spoil(*args: Any, **kwargs: Any) -> Evaluated:
        found = evaluate(*args, **kwargs)
        return replace(found, metrics={**found.metrics, name: value})

    return spoil


def spoil(monkeypatch: pytest.MonkeyPatch, bench: Workbench, place: str, value: float) -> None:
    """Make every measurement of one kind give `value`."""
    if place in ("metric", "signal"):
        name = "accuracy" if place == "metric" else "cross_entropy"
        monkeypatch.setattr(bench.task, "evaluate", spoiled_evaluation(name, value, bench.task.evaluate))
    elif place == "latency":
        latency = Latency(value, value, value, 5, value, value, value, clean=True, polluted_share=0.0, dense_ms=1.0)
        monkeypatch.setattr(workbench, "measure_latency", lambda *_: latency)
    else:
        cost: Any = value
        monkeypatch.setattr(workbench, "measure_cost", lambda *_: Cost(1000, 1000, cost, 4000, 4000))


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("place", ["metric", "latency", "cost", "signal"])
def test_what_cannot_be_fails_its_candidate_and_is_learnt_from_by_nobody(
    monkeypatch: pytest.MonkeyPatch, bench: Workbench, place: str, kind: str
) -> None:
    known = bench.space.distributions()
    params = {name: sampler_cases.first(d) for name, d in known.items()} | bench.space.uniform(0.5)
    distributions = {name: json.loads(distribution_to_json(d)) for name, d in known.items()}
    proposal = {"params": params, "distributions": distributions, "system_attrs": {}}
    monkeypatch.setattr(workbench, "measure_latency", replayed_latency)
    spoil(monkeypatch, bench, place, VALUES[kind])
    bench.setup = replace(bench.setup, directory=bench.setup.directory / f"{place}-{kind}", dense_ms=1.0)
    bench.outbox = Outbox(bench.setup)
    record = bench.run(Job(1, bench.space.policy_of(params), "proxy", proposal))
    assert [r.id for r in RecordStore(bench.setup.directory).load_all()] == [record.id]
    seen = observe([trial_of(record)], Genome(bench.space), [o.name for o in bench.objectives])
    constraints = constraints_of(bench.config, bench.task, 0.9)
    chosen = choose_finalists([record], bench.objectives, constraints, 1)
    if (place, kind) in POSSIBLE:
        assert record.state == "complete", record.failure
        assert chosen == [record]
    else:
        assert (record.failure or {})["reason"] == "nonfinite"
        assert trial_of(record).state == TrialState.FAIL
        assert len(seen) == 0
        assert chosen == []


def test_a_search_in_which_measurements_go_wrong_ends_with_the_others(stage: Stage, ram: Path) -> None:
    run = Watched(stage, ram, ("search.budget.evaluations=8",))
    status, said = run.call(spoiled=True)
    assert status == 0, said
    records = RecordStore(run.directory).load_all()
    failed = {r.id for r in records if r.state == "failed"}
    assert {(r.failure or {})["reason"] for r in records if r.state == "failed"} == {"nonfinite", "diverged"}
    assert len(failed) >= 4
    front = json.loads((run.directory / "front.json").read_bytes())
    assert front["members"]
    assert not failed & {member["id"] for member in front["members"]}
    assert run.call(spoiled=True)[0] == 0
