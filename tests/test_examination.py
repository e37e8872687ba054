"""A whole small run whose front is looked into: robustness, stability, agreement and classes of every member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny
from test_search import load, run_dir

import autoprune
from autoprune.config import compare_configs, effective_config
from autoprune.evaluation import agreement, by_class, gap_between, intervals, score, score_conditions
from autoprune.evaluation import conditions_of as known_conditions
from autoprune.records import RecordStore
from autoprune.report import FrontDocument, json_schema, read_front
from autoprune.report.pictures import PICTURES_FILE
from autoprune.runtimes import TorchSession
from autoprune.search.directory import EVENTS_FILE, read_events
from autoprune.search.run import run

QUICK = (
    "search.controls=0",
    "search.budget.evaluations=4",
    "recovery.finalists=2",
    "latency.targets=[torch-eager-fp32-b4-t1]",
    "objectives=[accuracy, macs]",
)
CONDITIONS = {"clean", "noise_0.3", "blur_1", "shift:mirrored"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrontDocument, Path]:
    """The front of a run with corruptions and a shifted domain, and its directory."""
    folder = tmp_path_factory.mktemp("examined")
    overrides = (*QUICK, "task_args={corrupt: true}", "robustness.units=100")
    return run(load(folder, *overrides, sampler="random")).front, run_dir(folder)


Finished = tuple[FrontDocument, Path]


def test_every_member_and_the_dense_model_meet_every_condition(finished: Finished) -> None:
    front, _ = finished
    assert front.members
    for member in (front.baseline, *front.members):
        assert set(member.robustness) == CONDITIONS
        for condition in member.robustness.values():
            assert condition.quality["accuracy"].n == 100
            assert set(condition.quality) == {"accuracy"}
            assert set(condition.versus_dense) == (set() if member is front.baseline else {"accuracy"})
    assert front.baseline.robustness["noise_0.3"].kind == "corruption"
    assert front.baseline.robustness["shift:mirrored"].kind == "shift"


def test_the_figures_of_a_member_are_those_of_its_emitted_model(finished: Finished) -> None:
    front, directory = finished
    task = tiny.make_task(corrupt=True)
    member = front.members[-1]
    sessions = [
        TorchSession(model.eval(), 1)
        for model in (autoprune.load(directory / str(member.directory), task.build_model()), task.build_model())
    ]
    scored, _ = (score_conditions(task, s, known_conditions(task), units=100, seed=0).scored for s in sessions)
    for condition, found in scored.items():
        assert found.metrics["accuracy"] == member.robustness[condition.key].quality["accuracy"].value
    test, dense_test = (score(task, s, "test") for s in sessions)
    agreed, classes = agreement(test, dense_test), by_class(test, dense_test)
    assert agreed is not None
    assert agreed.same is not None
    assert member.agreement is not None
    assert member.agreement.same is not None
    assert member.agreement.same.value == agreed.same.value
    assert member.agreement.kl == pytest.approx(agreed.kl, abs=1e-6)
    assert [(c.name, c.accuracy.value) for c in member.classes] == [(str(c.number), c.accuracy.value) for c in classes]
    train = intervals(task, score(task, sessions[0], "train", limit=100), seed=0)["accuracy"]
    other = intervals(task, test, seed=0)["accuracy"]
    assert member.stability is not None
    assert member.stability.training_gap["accuracy"].gap == pytest.approx(gap_between(train, other).delta)


def test_gradient_norms_name_the_layers_of_model_and_dense_model(finished: Finished) -> None:
    front, _ = finished
    for member in (front.baseline, *front.members):
        assert member.stability is not None
        assert {"stem", "wide", "fc"} <= set(member.stability.gradient_norm)
        assert all(norm > 0.0 for norm in member.stability.gradient_norm.values())


def test_the_dense_model_is_compared_with_nothing(finished: Finished) -> None:
    dense = finished[0].baseline
    assert dense.agreement is None
    assert dense.classes
    assert all(c.change is None for c in dense.classes)


def test_the_looking_is_timed_and_reads_no_more_of_test(finished: Finished) -> None:
    front, directory = finished
    assert front.examination is not None
    assert front.examination.units == 100
    assert 0.0 < front.examination.seconds < front.wall_seconds
    reads = [e for e in read_events(directory / EVENTS_FILE) if e["event"] == "test_read"]
    assert front.provenance.test_reads == len(reads) == 1 + len(front.members)


def test_front_json_is_valid_and_metrics_json_tells_the_same(finished: Finished) -> None:
    front, directory = finished
    document = json.loads((directory / "front.json").read_text())
    jsonschema.validate(document, json_schema("front"))
    assert read_front(directory) == front
    for member in front.members:
        measured = json.loads((directory / str(member.directory) / "metrics.json").read_text())["measured"]
        told = json.loads(member.model_dump_json())
        for name in ("robustness", "stability", "agreement", "classes"):
            assert measured[name] == told[name]


def test_records_tell_how_far_each_candidate_agrees_on_val(finished: Finished) -> None:
    _, directory = finished
    records = [r for r in RecordStore(directory).load_all() if r.state == "complete"]
    for record in records:
        agreed: Any = (record.evaluation or {})["agreement"]
        assert 0.0 <= agreed["same"]["low"] <= agreed["same"]["value"] <= 1.0
        assert agreed["kl"] >= 0.0
    dense = next(r for r in records if r.number == 0)
    assert dense.evaluation is not None
    assert (dense.evaluation["agreement"]["same"]["value"], dense.evaluation["agreement"]["kl"]) == (1.0, 0.0)


def test_the_model_card_tells_the_worst_condition_the_agreement_and_the_classes(finished: Finished) -> None:
    front, directory = finished
    for member in front.members:
        card = (directory / str(member.directory) / "README.md").read_text()
        for told in ("noise\\_0.3", "shift:mirrored", "same answer as the dense model", "on training data"):
            assert told in card, told


def test_nothing_is_looked_into_where_it_is_turned_off(tmp_path: Path) -> None:
    front = run(load(tmp_path, *QUICK, "task_args={corrupt: true}", "robustness.units=0", sampler="random")).front
    for member in (front.baseline, *front.members):
        assert (member.robustness, member.stability) == ({}, None)
    assert front.members[0].agreement is not None


def test_a_corruption_that_fails_costs_that_condition_alone_and_the_report_says_why(tmp_path: Path) -> None:
    overrides = (*QUICK, "task_args={corrupt: true, faulty: true}", "robustness={units: 100, pictures: false}")
    front = run(load(tmp_path, *overrides, sampler="random")).front
    reason = "raised KeyError: 'lens'"
    told = [w.text for w in front.baseline.warnings]
    assert [reason in t for t in told] == [True, True]
    assert [t.split(":")[0] for t in told] == [f"It could not be scored under {name}" for name in ("broken", "late")]
    assert set(front.baseline.robustness) == CONDITIONS
    for member in front.members:
        assert set(member.robustness) == {*CONDITIONS, "late"}
        assert [w.text for w in member.warnings if w.code == "robustness"] == told[:1]
        assert member.robustness["late"].versus_dense == {}
        assert set(member.robustness["noise_0.3"].versus_dense) == {"accuracy"}
    page = (run_dir(tmp_path) / "report.html").read_text()
    assert page.count("It could not be scored under late") == 1
    assert '<th scope="row"><bdi>late</bdi></th><td>–' in page
    assert not (run_dir(tmp_path) / PICTURES_FILE).exists()
    assert "No pictures were kept of this run." in page


def test_turning_it_off_or_on_is_the_same_experiment(tmp_path: Path) -> None:
    one, other = (effective_config(load(tmp_path, f"robustness.units={n}").config) for n in (0, 500))
    assert compare_configs(one, other) == []
