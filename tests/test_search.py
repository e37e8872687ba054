"""One whole small search, and what happens when it is repeated, killed, broken or given bad input."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

import autoprune
from autoprune.config import LoadedConfig, load_config
from autoprune.errors import (
    AutopruneError,
    CandidateError,
    ConfigError,
    GroupError,
    OutputError,
    TaskError,
    UnmetConstraintError,
)
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report.document import FrontDocument, Member, read_front
from autoprune.search import SilentCallback, read_status
from autoprune.search.callbacks import Progress, RunInfo
from autoprune.search.directory import EVENTS_FILE, read_events
from autoprune.search.run import run

TESTS = Path(__file__).parent
CONFIG = """
name: tiny
task: {tests}/tiny.py:make_task
space: channels
search: {{sampler: {sampler}, seed: 0, budget: {{evaluations: 8}}, warm_start: 4, workers: {workers}, controls: 0}}
recovery: {{short_steps: 5, full_steps: 15, finalists: 4, seeds: 1, proxy_images: 64}}
latency: {{targets: [onnxruntime-fp32-b4-t1, torch-eager-fp32-b4-t1], rounds: 5, final_rounds: 8}}
output: {output}
"""


def config_file(folder: Path, *, sampler: str = "nsga2", workers: int = 1) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(tests=TESTS, sampler=sampler, workers=workers, output=folder / "results"))
    return path


def load(folder: Path, *overrides: str, **settings: Any) -> LoadedConfig:
    return load_config(config_file(folder, **settings), overrides=overrides, environ={})


class Watcher(SilentCallback):
    """Remembers what a run told."""

    def __init__(self) -> None:
        self.started: list[RunInfo] = []
        self.records: list[CandidateRecord] = []
        self.progress: list[Progress] = []
        self.ended: list[FrontDocument] = []

    def on_search_start(self, info: RunInfo) -> None:
        self.started.append(info)

    def on_candidate_end(self, record: CandidateRecord, progress: Progress) -> None:
        self.records.append(record)
        self.progress.append(progress)

    def on_search_end(self, front: FrontDocument) -> None:
        self.ended.append(front)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FrontDocument, Watcher]:
    """A finished run's working folder, its front and what it told."""
    folder = tmp_path_factory.mktemp("run")
    watcher = Watcher()
    result = run(load(folder), callbacks=[watcher])
    return folder, result.front, watcher


def run_dir(folder: Path) -> Path:
    return folder / "results" / "tiny"


def test_search_evaluates_its_budget_and_recovers_finalists(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    folder, front, watcher = finished
    records = RecordStore(run_dir(folder)).load_all()
    fidelities = Counter(r.fidelity for r in records)
    assert fidelities["short"] == 8
    assert fidelities["full"] == 1 + 4
    assert len({r.id for r in records}) == len(records)
    assert front.evaluations.short == 8
    assert watcher.started[0].baseline["accuracy"] > 0.9
    assert [p.done for p in watcher.progress if p.stage == "search"] == list(range(1, 9))
    assert watcher.ended == [front]


def test_front_is_made_of_measured_non_dominated_models(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    _, front, _ = finished
    assert front.members
    first = front.first_target
    rows = []
    for member in front.members:
        deployment = member.deployments[first]
        assert deployment.latency is not None
        assert deployment.quality.test["accuracy"].n == 135
        assert member.parameters < front.baseline.parameters
        assert set(member.deployments) == set(front.targets)
        rows.append((1.0 - deployment.quality.val["accuracy"].value, deployment.latency.ms))
    for i, one in enumerate(rows):
        assert not any(np.all(np.array(o) <= one) and o != one for j, o in enumerate(rows) if j != i)
    costs = sorted(ms for _, ms in rows)
    assert all(b / a > 1.02 for a, b in itertools.pairwise(costs))


def test_latency_and_speedup_of_a_member_agree(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    _, front, _ = finished
    dense = front.baseline.deployments[front.first_target].latency
    for member in front.members:
        latency = member.deployments[front.first_target].latency
        assert latency is not None
        assert dense is not None
        assert dense.ms / latency.ms == pytest.approx(latency.speedup, rel=1e-6)


def test_test_split_is_read_once_a_member_and_counted(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    folder, front, _ = finished
    reads = [e["id"] for e in read_events(run_dir(folder) / EVENTS_FILE) if e["event"] == "test_read"]
    targets = len(front.targets)
    assert front.provenance.test_reads == len(reads) == targets * (1 + len(front.members))
    assert set(Counter(reads).values()) == {targets}


def test_member_loads_without_the_search_and_is_the_scored_model(
    finished: tuple[Path, FrontDocument, Watcher],
) -> None:
    import tiny

    folder, front, _ = finished
    member = front.members[0]
    task = tiny.make_task()
    dense = task.build_model()
    model = autoprune.load(run_dir(folder) / str(member.directory), dense)
    assert sum(p.numel() for p in model.parameters()) == member.parameters
    with torch.no_grad():
        scored = task.evaluate(lambda inputs: model(*inputs.args), "test")
    assert scored.metrics["accuracy"] == member.deployments[front.first_target].quality.test["accuracy"].value
    assert sum(p.numel() for p in dense.parameters()) == front.baseline.parameters


def test_study_index_holds_every_search_candidate(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    folder, _, _ = finished
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{run_dir(folder) / 'study.db'}")
    assert len(study.trials) == 8
    assert study.metric_names == ["accuracy", "latency_ms"]
    assert {t.user_attrs["candidate_id"] for t in study.trials} == {
        r.id for r in RecordStore(run_dir(folder)).load_all() if r.fidelity == "short"
    }


def test_status_reads_a_finished_run(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    folder, front, _ = finished
    status = read_status(run_dir(folder))
    assert status.state == "finished"
    assert status.evaluations["short"] == 8
    assert status.members == len(front.members)
    assert status.front


def test_second_call_ends_at_once_with_the_same_front(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    folder, front, _ = finished
    events = len(read_events(run_dir(folder) / EVENTS_FILE))
    started = time.monotonic()
    again = run(load(folder))
    assert again.front == front
    assert time.monotonic() - started < 2.0
    assert len(read_events(run_dir(folder) / EVENTS_FILE)) == events


def test_missing_member_or_broken_front_is_made_again(tmp_path: Path) -> None:
    loaded = load(tmp_path, "search.budget.evaluations=3", "recovery.finalists=2")
    front = run(loaded).front
    before = {r.id: r.created for r in RecordStore(run_dir(tmp_path)).load_all()}
    member = run_dir(tmp_path) / str(front.members[0].directory)
    (member / "model.onnx").write_bytes(b"altered")
    again = run(loaded).front
    assert {m.id for m in again.members} <= set(before)
    assert all(autoprune.verify(run_dir(tmp_path) / str(m.directory)).ok for m in again.members)
    (run_dir(tmp_path) / "front.json").write_text('{"a":')
    assert read_front(run_dir(tmp_path) if run(loaded) else tmp_path).members
    assert {r.id: r.created for r in RecordStore(run_dir(tmp_path)).load_all()} == before


def test_model_that_cannot_be_exported_still_gives_a_front(tmp_path: Path) -> None:
    overrides = ["search.budget.evaluations=2", "recovery.finalists=2", "task_args.fail=branch"]
    with pytest.raises(TaskError, match="cannot be exported") as raised:
        run(load(tmp_path, *overrides))
    assert "torch-eager" in raised.value.hint
    assert not (tmp_path / "results").exists()
    eager = "latency.targets=[torch-eager-fp32-b4-t1]"
    front = run(load(tmp_path, *overrides, eager, "objectives=[accuracy, parameters]")).front
    member = front.members[0]
    assert {w.code for w in member.warnings} >= {"no_onnx", "no_pt2"}
    assert autoprune.verify(run_dir(tmp_path) / str(member.directory)).ok


def test_larger_budget_continues_and_changed_settings_are_refused(tmp_path: Path) -> None:
    small = load(tmp_path, "search.budget.evaluations=3", "recovery.finalists=2")
    run(small)
    before = {r.id: r.created for r in RecordStore(run_dir(tmp_path)).load_all()}
    with pytest.raises(ConfigError, match=r"search\.seed: was 0, is 1"):
        run(load(tmp_path, "search.budget.evaluations=5", "recovery.finalists=2", "search.seed=1"))
    watcher = Watcher()
    run(load(tmp_path, "search.budget.evaluations=5", "recovery.finalists=2"), callbacks=[watcher])
    assert watcher.started[0].resumed == 3
    after = RecordStore(run_dir(tmp_path)).load_all()
    assert sum(r.fidelity == "short" for r in after) == 5
    assert {r.id: r.created for r in after if r.id in before} == before


def test_killed_run_continues_without_losing_or_repeating_a_candidate(tmp_path: Path) -> None:
    config_file(tmp_path)
    command = [sys.executable, "-m", "autoprune", "search", str(tmp_path / "tiny.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store = RecordStore(run_dir(tmp_path))
    deadline = time.monotonic() + 120
    while len(list(store.directory.glob("*-short"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {r.id: r.created for r in store.load_all()}
    front = run(load(tmp_path)).front
    after = store.load_all()
    shorts = [r for r in after if r.fidelity == "short"]
    assert {r.id: r.created for r in after if r.id in before} == before
    assert len(shorts) == len({r.digest for r in shorts}) == 8
    assert sorted(r.number for r in shorts) == list(range(1, 9))
    assert front.members


@pytest.mark.parametrize(("fail", "reason"), [("raise", "error"), ("exit", "error"), ("diverge", "diverged")])
def test_candidates_that_all_fail_are_recorded_with_their_reason(tmp_path: Path, fail: str, reason: str) -> None:
    overrides = ["search.budget.evaluations=2", f"task_args.fail={fail}"]
    with pytest.raises(CandidateError, match="None of 2 candidates"):
        run(load(tmp_path, *overrides))
    failed = [r for r in RecordStore(run_dir(tmp_path)).load_all() if r.state == "failed"]
    assert [(r.failure or {})["reason"] for r in failed] == [reason, reason]
    assert {(r.failure or {})["stage"] for r in failed} == {"recover"}
    assert fail == "diverge" or all("(tiny.py:" in (r.failure or {})["message"] for r in failed)
    assert read_status(run_dir(tmp_path)).failed == {reason: 2}


@pytest.mark.parametrize("sampler", ["random", "tpe", "uniform", "gp"])
def test_every_sampler_proposes_distinct_policies(tmp_path: Path, sampler: str) -> None:
    overrides = ["search.budget.evaluations=5", "recovery.short_steps=0", "recovery.full_steps=0"]
    front = run(load(tmp_path, *overrides, "recovery.finalists=2", sampler=sampler)).front
    records = [r for r in RecordStore(run_dir(tmp_path)).load_all() if r.fidelity == "short"]
    assert len({r.digest for r in records}) == 5
    assert front.evaluations.short == 5


def test_two_worker_processes_share_a_search(tmp_path: Path) -> None:
    overrides = ["search.budget.evaluations=4", "recovery.finalists=2"]
    front = run(load(tmp_path, *overrides, workers=2)).front
    records = [r for r in RecordStore(run_dir(tmp_path)).load_all() if r.fidelity == "short"]
    assert sorted(r.number for r in records) == [1, 2, 3, 4]
    assert all(r.state == "complete" for r in records)
    assert front.members


def test_same_seed_and_policy_give_the_same_weights(tmp_path: Path) -> None:
    from autoprune.search.check import setup_of
    from autoprune.search.workbench import Workbench
    from autoprune.tasks import TaskRef

    loaded = load(tmp_path)
    models = []
    for _ in range(2):
        bench = Workbench(setup_of(loaded, TaskRef(loaded.config.task, {}, loaded.base)))
        policy = bench.space.policy_of(bench.space.uniform(0.5))
        models.append(bench.prune(policy, "short").model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(models[0].values(), models[1].values(), strict=True))


def test_unreachable_latency_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be reached") as raised:
        run(load(tmp_path, "constraints.max_latency_ms=0.0001"))
    assert raised.value.exit_code == 2
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("override", "kind", "message"),
    [
        ("task=nowhere.py:make_task", TaskError, "nowhere.py"),
        ("task={tests}/tiny.py:make_tusk", TaskError, "make_task"),
        ("groups.protect=[nothing_like_it]", GroupError, "nothing_like_it"),
        ("groups.protect=['*']", GroupError, "prun"),
        ("objectives=[accuracy, latency]", ConfigError, "latency_ms"),
        ("space=chanels", AutopruneError, "channels"),
        ("constraints.require=['f1>=0.9']", ConfigError, "f1"),
        ("output=/proc/nowhere", OutputError, "/proc"),
        (f"output={'a' * 300}", OutputError, "aaa"),
    ],
)
def test_bad_input_is_refused_with_one_clear_message(
    tmp_path: Path, override: str, kind: type[AutopruneError], message: str
) -> None:
    with pytest.raises(kind) as raised:
        run(load(tmp_path, override.format(tests=TESTS)))
    assert message in f"{raised.value} {raised.value.hint}"
    assert raised.value.exit_code == (73 if kind is OutputError else 2)
    assert not (tmp_path / "results").exists()


def test_output_that_is_a_file_or_holds_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError) as raised:
        run(load(tmp_path, f"output={tmp_path / 'file'}"))
    assert raised.value.exit_code == 73
    foreign = tmp_path / "results" / "tiny"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="belong to no run"):
        run(load(tmp_path))
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_constraints_mark_and_select_members(finished: tuple[Path, FrontDocument, Watcher], tmp_path: Path) -> None:
    """The limit that decides is one on size: latencies of so small a net lie within a busy machine's own spread."""
    _, front, _ = finished
    dense = front.baseline.deployments[front.first_target].latency
    assert dense is not None
    limits = [
        f"constraints.max_latency_ms={20 * dense.ms}",
        f"constraints.max_parameters={front.baseline.parameters // 2}",
    ]
    constrained = run(load(tmp_path, *limits)).front
    assert all(m.feasible for m in constrained.members)
    assert all(m.parameters <= front.baseline.parameters // 2 for m in constrained.members)
    assert all(_ms(constrained, m) <= 20 * dense.ms for m in constrained.members)
    assert [c.satisfied_by for c in constrained.constraints] == [tuple(m.id for m in constrained.members)] * 2


def test_constraint_that_no_model_meets_ends_with_the_front_and_exit_4(tmp_path: Path) -> None:
    overrides = [
        "search.budget.evaluations=2",
        "recovery.finalists=1",
        "recovery.short_steps=0",
        "recovery.full_steps=0",
    ]
    with pytest.raises(UnmetConstraintError, match="No model satisfies accuracy>=1") as raised:
        run(load(tmp_path, *overrides, "constraints.require=['accuracy>=1']", sampler="uniform"))
    assert raised.value.exit_code == 4
    front = read_front(run_dir(tmp_path))
    assert front.members
    assert not any(m.feasible for m in front.members)


def test_dashboard_opens_the_study(finished: tuple[Path, FrontDocument, Watcher]) -> None:
    from wsgiref.util import setup_testing_defaults

    from optuna_dashboard import wsgi

    folder, _, _ = finished
    storage = optuna.storages.RDBStorage(f"sqlite:///{run_dir(folder) / 'study.db'}")
    environ = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(wsgi(storage)(environ, lambda code, *_: status.append(code)))
    storage.remove_session()
    storage.engine.dispose()
    assert status[0].startswith("200")
    assert [s["study_name"] for s in json.loads(body)["study_summaries"]] == ["tiny"]


def test_three_objectives_make_a_front(tmp_path: Path) -> None:
    front = run(load(tmp_path, "objectives=[accuracy, parameters, latency_ms]", "search.budget.evaluations=5")).front
    assert [o.name for o in front.objectives] == ["accuracy", "parameters", "latency_ms"]
    assert front.members


def test_a_task_object_is_searched_without_a_file(tmp_path: Path) -> None:
    import tiny

    result = autoprune.run_search(
        tiny.make_task(),
        name="object",
        output=str(tmp_path),
        search={"budget": {"evaluations": 3}, "sampler": "uniform"},
        recovery={"short_steps": 0, "full_steps": 5, "finalists": 2},
        latency={"rounds": 5, "final_rounds": 5},
    )
    assert read_front(tmp_path / "object") == result.front
    assert len(result.to_frame()) == len(result.front.members)
    assert result.pick().id in {m.id for m in result.front.members}
    assert json.loads((tmp_path / "object" / "environment.json").read_text())["versions"]["torch"]


def _ms(front: FrontDocument, member: Member) -> float:
    latency = member.deployments[front.first_target].latency
    assert latency is not None
    return latency.ms
