"""Controls: what each proposes, that no policy is evaluated twice, and the smaller sibling."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from search_records import record
from torch import nn

from autoprune.config import load_config
from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.check import setup_of
from autoprune.search.controls import (
    CONTROLS,
    ControlContext,
    ControlPlan,
    control_jobs,
    control_records,
    plan_controls,
    sensitivity_curves,
)
from autoprune.search.siblings import train_siblings
from autoprune.search.workbench import Workbench, evaluation_of
from autoprune.space import LEVEL_PREFIX, BoundSpace, SearchSpace
from autoprune.tasks import TaskRef

TESTS = Path(__file__).parent
CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
space: channels
search: {{seed: 0}}
recovery: {{short_steps: 2, full_steps: 10, proxy_images: 64}}
latency: {{targets: [torch-eager-fp32-b4-t1], rounds: 5}}
output: {output}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench on the tiny task; its run directory exists."""
    folder = tmp_path_factory.mktemp("controls")
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(tests=TESTS, output=folder / "results"))
    loaded = load_config(path, environ={})
    setup = setup_of(loaded, TaskRef(loaded.config.task, loaded.config.task_args, loaded.base))
    setup.directory.mkdir(parents=True)
    return Workbench(setup, tiny.make_task())


def space_of(**widths: int) -> BoundSpace:
    from test_space import groups_of

    spec = SearchSpace.model_validate({"name": "test", "description": "-", "sparsity": {"max": 0.9, "round_to": 1}})
    bound = spec.bind(groups_of(*widths.values()))
    groups = tuple(replace(g, name=name) for g, name in zip(bound.groups, widths, strict=True))
    return replace(bound, groups=groups, widths=dict(zip(widths, bound.widths.values(), strict=True)))


def context(space: BoundSpace, **changes: Any) -> ControlContext:
    plain: dict[str, Any] = {
        "space": space,
        "count": 5,
        "macs": lambda widths: np.asarray(widths, dtype=np.float64).prod(axis=1),
        "importance": {g.name: np.linspace(0.5, 1.5, g.width) for g in space.groups},
        "sensitivity": {},
        "rng": np.random.default_rng(0),
    }
    return ControlContext(**{**plain, **changes})


def kept(space: BoundSpace, params: dict[str, Any]) -> dict[str, int]:
    return {g.name: space.widths[g.name][params[LEVEL_PREFIX + g.name]] for g in space.groups}


@pytest.mark.parametrize("name", list(CONTROLS))
def test_a_control_sweeps_from_little_to_much_without_the_dense_model(name: str) -> None:
    space = space_of(early=10, late=20)
    given = context(space, sensitivity={"early": ((0.5, 0.1), (0.8, 0.6)), "late": ((0.5, 0.05), (0.8, 0.2))})
    found = [kept(space, params) for params in CONTROLS[name](given)]
    costs = [w["early"] * w["late"] for w in found]
    assert 1 <= len(found) <= 5
    assert len({tuple(w.values()) for w in found}) == len(found)
    assert costs == sorted(costs)
    assert all(cost < 200 for cost in costs)
    assert costs[0] < 0.1 * 200
    gaps = [math.log(b / a) for a, b in itertools.pairwise(costs)]
    assert max(gaps) < 0.6 * math.log(200 / 2)


def test_uniform_removes_the_same_share_everywhere() -> None:
    space = space_of(early=10, late=20)
    for params in CONTROLS["uniform"](context(space)):
        widths = kept(space, params)
        assert abs(widths["early"] / 10 - widths["late"] / 20) < 0.1


def test_global_magnitude_cuts_most_where_units_are_uneven() -> None:
    space = space_of(even=10, uneven=10)
    importance = {"even": np.linspace(0.9, 1.1, 10), "uneven": np.linspace(0.1, 1.9, 10)}
    for params in CONTROLS["global_magnitude"](context(space, importance=importance)):
        widths = kept(space, params)
        if widths["uneven"] > 6:
            assert widths["even"] == 10


def test_the_threshold_spares_sensitive_groups_and_leaves_unmeasured_ones_whole() -> None:
    space = space_of(robust=10, tender=10, unknown=10)
    curves = {"robust": ((0.5, 0.0), (0.8, 0.1)), "tender": ((0.5, 0.5), (0.8, 2.0))}
    for params in CONTROLS["sensitivity_threshold"](context(space, sensitivity=curves)):
        widths = kept(space, params)
        assert widths["robust"] <= widths["tender"]
        assert widths["unknown"] == 10


def test_curves_are_of_one_shot_cuts_alone_and_start_at_the_dense_model() -> None:
    def loss(one: CandidateRecord) -> float:
        return 1.0 - one.values["accuracy"]

    cut = {"fidelity": "proxy", "origin": "sensitivity"}
    records = [
        record(0, 0.95, 10.0, sparsity={}, fidelity="full"),
        record(1, 0.90, 5.0, sparsity={"a": 0.5}, **cut),
        record(2, 0.60, 5.0, sparsity={"a": 0.8}, **cut),
        record(3, 0.10, 5.0, sparsity={"a": 0.7}, fidelity="proxy", origin="infill"),
    ]
    curves = sensitivity_curves(records, loss)
    assert list(curves) == ["a"]
    assert [s for s, _ in curves["a"]] == [0.5, 0.8]
    assert [rise for _, rise in curves["a"]] == pytest.approx([0.05, 0.35])
    assert sensitivity_curves(records[:1], loss) == {}


def test_every_policy_is_one_job_and_a_recorded_one_is_none(bench: Workbench) -> None:
    jobs = control_jobs(bench, [], 3)
    assert len({job.id for job in jobs}) == len(jobs) >= 6
    assert {job.fidelity for job in jobs} == {"short"}
    assert {job.origin for job in jobs} == {"control:uniform", "control:random", "control:global_magnitude"}
    assert {job.policy.strategy.criterion for job in jobs} == {"l1"}
    known = record(7, 0.9, 5.0, sparsity=jobs[0].policy.sparsity)
    known = replace(known, id=jobs[0].id, digest=jobs[0].policy.digest)
    left = control_jobs(bench, [known], 3)
    assert [job.id for job in left] == [job.id for job in jobs[1:]]
    assert min(job.number for job in left) == 8
    assert control_jobs(bench, [], 0) == []


def test_the_same_run_plans_the_same_controls(bench: Workbench) -> None:
    assert plan_controls(bench, [], 4).policies == plan_controls(bench, [], 4).policies


def test_what_cannot_be_planned_is_told(bench: Workbench) -> None:
    plan = plan_controls(bench, [], 2)
    assert "sensitivity_threshold" not in plan.policies
    assert any("sensitivity_threshold" in note for note in plan.notes)


def test_two_controls_share_the_record_of_a_policy_that_both_want(bench: Workbench) -> None:
    policy = bench.space.smallest()
    plan = ControlPlan({"one": (policy,), "other": (policy,)})
    mine = replace(record(1, 0.9, 5.0, origin="infill"), id=plan.ids()["one"][0])
    earlier = record(2, 0.8, 5.0, origin="control:random")
    found = control_records(plan, [mine, earlier, record(3, 0.7, 4.0)])
    assert found == {"one": [mine], "other": [mine], "random": [earlier]}


def test_a_smaller_sibling_is_trained_measured_and_recorded_once(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train_siblings(bench, []) == []
    asked = []

    def sibling(share: float) -> nn.Module | None:
        asked.append(share)
        return tiny.TinyNet(int(16 * share)) if share < 0.7 else None

    monkeypatch.setattr(bench.user_task, "sibling", sibling, raising=False)
    found = train_siblings(bench, [], shares=(0.5, 0.75))
    assert asked == [0.5, 0.75]
    assert [r.state for r in found] == ["complete"]
    assert {r.origin for r in found} == {"control:from_scratch"}
    assert all(r.fidelity == "full" and not r.policy["sparsity"] for r in found)
    measured = evaluation_of(found[0])
    assert measured.cost.parameters < 0.5 * sum(p.numel() for p in bench.model.parameters())
    assert set(measured.versus_dense) == set(measured.quality["val"])
    stored = RecordStore(bench.setup.directory).load_all()
    assert {r.id for r in stored} == {r.id for r in found}
    assert train_siblings(bench, stored, shares=(0.5,)) == []
    assert asked == [0.5, 0.75]


def test_a_sibling_that_cannot_be_built_is_a_failed_record(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def sibling(share: float) -> nn.Module | None:
        raise ValueError(f"no model of {share}")

    monkeypatch.setattr(bench.user_task, "sibling", sibling, raising=False)
    (failed,) = train_siblings(bench, [], shares=(0.3,))
    assert failed.state == "failed"
    assert failed.failure is not None
    assert "no model of 0.3" in failed.failure["message"]
