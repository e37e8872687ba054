"""A16: the run directory of every released version is read, picked from, verified and continued."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from checks import assert_whole, finished_records
from stage import Stage

import autoprune
from autoprune.records import RecordStore
from autoprune.report.document import read_front

GOLDEN = Path(__file__).with_name("golden")
VERSIONS = sorted(p.name for p in GOLDEN.iterdir() if (p / "config.yaml").is_file())


@pytest.fixture(params=VERSIONS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of the run of one version, under the path that its configuration gives it."""
    for name in ("task.py", "run.yaml"):
        shutil.copy(GOLDEN / name, tmp_path)
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "results" / "golden"))


def called(stage: Stage, run: Path, *arguments: str) -> str:
    """Return what a command that succeeds writes to stdout."""
    act = stage.start("call", folder=str(run.parent.parent), arguments=arguments)
    assert act.wait() == 0, act.err.read_text()
    return act.out.read_text()


def task_of(run: Path) -> Any:
    spec = importlib.util.spec_from_file_location("golden_task", run.parent.parent / "task.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_task()


def test_there_is_a_run_of_this_version() -> None:
    assert version("autoprune") in VERSIONS


def test_every_record_of_an_old_run_is_read(run: Path) -> None:
    before = finished_records(run)
    records = RecordStore(run).load_all()
    assert len(records) == len(before) >= 15
    assert {r.state for r in records} == {"complete", "failed"}
    assert {r.fidelity for r in records} == {"proxy", "short", "full"}
    assert_whole(run)


def test_the_commands_work_on_an_old_run(stage: Stage, run: Path) -> None:
    front = read_front(run)
    status = json.loads(called(stage, run, "status", "golden", "--json"))
    assert (status["state"], status["members"]) == ("finished", len(front.members))
    assert status["front"]
    again = json.loads(called(stage, run, "report", "golden", "--json"))
    assert [m["id"] for m in again["members"]] == [m.id for m in front.members]
    assert (run / "report.html").read_text().rstrip().endswith("</html>")
    target = run.parent / "picked"
    picked = json.loads(called(stage, run, "pick", "golden", "--to", str(target), "--json"))
    assert picked["member"]["id"] in {m.id for m in front.members}
    assert autoprune.verify(target).ok


def test_the_models_of_an_old_run_are_whole_and_score_as_they_did(run: Path) -> None:
    import torch

    front, task = read_front(run), task_of(run)
    for member in front.members:
        directory = run / str(member.directory)
        assert autoprune.verify(directory).ok
        model = autoprune.load(directory, task.build_model())
        with torch.no_grad():
            scored = task.evaluate(lambda inputs, model=model: model(*inputs.args), "test")
        before = member.deployments[front.first_target].quality.test["accuracy"].value
        assert scored.metrics["accuracy"] == pytest.approx(before, abs=0.02)


def test_an_old_run_is_finished_for_its_own_command(stage: Stage, run: Path) -> None:
    events = (run / "events.jsonl").read_bytes()
    called(stage, run, "search", "run.yaml")
    assert (run / "events.jsonl").read_bytes() == events


@pytest.mark.slow
def test_an_old_run_goes_on_with_a_larger_budget_and_is_kept_from_another_target(stage: Stage, run: Path) -> None:
    before, front = finished_records(run), read_front(run)
    config = str(run.parent.parent / "run.yaml")
    overrides = [f"output={run.parent}", "search.budget.evaluations=7", "latency.targets=[torch-eager-fp32-b4-t1]"]
    status, said = stage.play("search", config=config, overrides=overrides, traced=False)
    assert status == 2, said
    assert "latency.targets" in said
    status, said = stage.play("search", config=config, overrides=overrides[:2], traced=False, replayed=False)
    assert status == 0, said
    after = finished_records(run)
    assert {name: after.get(name) for name in before} == before
    assert len(after) > len(before)
    assert read_front(run).evaluations.short + read_front(run).evaluations.failed > front.evaluations.short


@pytest.mark.slow
def test_the_command_verifies_the_models_of_an_old_run(run: Path) -> None:
    for member in read_front(run).members:
        command = [sys.executable, "-m", "autoprune", "verify", str(run / str(member.directory))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
