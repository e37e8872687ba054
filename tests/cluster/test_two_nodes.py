"""The Ray engine on two nodes with a token, made from network namespaces: late join, node loss, refused entry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster_nodes import FIRST, ROOT, SECOND, TwoNodes, missing
from executor_cases import faulty_setup
from faulty_task import calls_in

from autoprune.records import RecordStore

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

PATIENCE = 120.0
KILLS = 10
JOIN = """
import json, os, sys
from autoprune.errors import ConfigError
from autoprune.search.executors.joining import refuse_unreachable_cluster
answers = {}
for name, environment in json.loads(sys.argv[2]).items():
    os.environ.update(environment)
    try:
        refuse_unreachable_cluster(sys.argv[1])
        answers[name] = ["", ""]
    except ConfigError as error:
        answers[name] = [str(error), error.hint]
print(json.dumps(answers))
"""
OTHER_RAY = "import ray\nray.__version__ = '2.61.0'\n"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """The first node; the second joins when a test says so."""
    nodes = TwoNodes.up(tmp_path_factory.mktemp("nodes"), alone=True)
    try:
        yield nodes
    finally:
        nodes.down()


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A directory with the task file, which the second node does not see."""
    folder = tmp_path / "private"
    folder.mkdir()
    shutil.copy(ROOT / "tests" / "faulty_task.py", folder)
    return folder


class Run:
    """A driver at work on the first node, and what it has told."""

    def __init__(self, nodes: TwoNodes, **asked: Any) -> None:
        self.process = nodes.drive(**asked)
        self.events: list[dict[str, Any]] = []

    def records(self) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == "record"]

    def follow(self, until: Any) -> None:
        """Read events until one fits."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if until(self.events[-1]):
                return
        raise AssertionError(f"the driver ended: {self.process.communicate()[1][-3000:]}")

    def finish(self) -> None:
        """Read the rest."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        self.events += [json.loads(line) for line in output.splitlines()]
        assert self.process.returncode == 0, errors[-3000:]


def start_run(nodes: TwoNodes, folder: Path, private: Path) -> Run:
    folder.mkdir()
    (folder / "recover").write_text("nap always")
    (folder / "more").touch()
    config = faulty_setup(folder, address=nodes.address, cpus_per_worker=1.0).config.model_dump(mode="json")
    return Run(nodes, config=config, directory=str(folder), base=str(private))


def assert_nothing_lost_or_repeated(run: Run, folder: Path, kills: int) -> None:
    """Each job has one record, complete unless its node was lost twice, and no work began after it was on disk."""
    records = run.records()
    jobs = list(range(len(records)))
    assert sorted(r["number"] for r in records) == jobs
    assert {r["failure"] for r in records if r["state"] != "complete"} <= {"worker_lost"}
    calls = calls_in(folder)
    begun = Counter(call.steps - 2 for call in calls)
    assert len(calls) <= len(jobs) + kills
    assert all(begun[r["number"]] == 2 for r in records if r["state"] == "failed")
    stored = RecordStore(folder).load_all()
    assert [r.number for r in stored] == jobs
    clock = time.time() - time.monotonic()
    for record in stored:
        written = (folder / "candidates" / record.id / "MANIFEST.json").stat().st_mtime - clock
        assert all(c.started < written for c in calls if c.steps - 2 == record.number)


@pytest.fixture(scope="module")
def answers(nodes: TwoNodes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a process on the first node is told, message and hint, with one token or another."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "wrong").write_text("0" * 64)
    (folder / "sitecustomize.py").write_text(OTHER_RAY)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(nodes.token_file)}
    environments = {
        "own": own,
        "missing": {"RAY_AUTH_MODE": "disabled"},
        "no file": own | {"RAY_AUTH_TOKEN_PATH": str(folder / "none")},
        "wrong": own | {"RAY_AUTH_TOKEN_PATH": str(folder / "wrong")},
        "other Ray": own | {"PYTHONPATH": str(folder)},
    }
    done = nodes.python("-c", JOIN, nodes.address, json.dumps(environments))
    assert done.returncode == 0, done.stderr
    assert nodes.token_file.read_text() not in done.stdout + done.stderr
    told: dict[str, list[str]] = json.loads(done.stdout)
    return told


def test_the_clusters_own_token_opens_it(answers: dict[str, list[str]]) -> None:
    assert answers["own"] == ["", ""]


def test_a_missing_token_is_refused(nodes: TwoNodes, answers: dict[str, list[str]]) -> None:
    message, hint = answers["missing"]
    assert message == f"The Ray cluster at {nodes.address} demands a token, and this process gives none."
    assert "RAY_AUTH_TOKEN_PATH" in hint


def test_a_token_file_that_is_not_there_is_named(answers: dict[str, list[str]]) -> None:
    assert re.fullmatch(r"RAY_AUTH_TOKEN_PATH names /.*/none, which is no file\.", answers["no file"][0])


def test_a_wrong_token_is_refused(nodes: TwoNodes, answers: dict[str, list[str]]) -> None:
    expected = f"The Ray cluster at {nodes.address} refuses the token of this process: it is not the cluster's."
    assert answers["wrong"][0] == expected


def test_another_version_of_ray_is_refused(answers: dict[str, list[str]]) -> None:
    expected = r"has Ray 2\.\d+\.\d+ with Python 3\.\d+\.\d+, this process Ray 2\.61\.0"
    assert re.search(expected, answers["other Ray"][0])


def test_a_late_node_is_used_without_the_drivers_files_and_its_loss_survived(
    nodes: TwoNodes, tmp_path: Path, private: Path
) -> None:
    folder = tmp_path / "run"
    run = start_run(nodes, folder, private)
    run.follow(lambda e: e["event"] == "connected")
    nodes.join(hidden=private)
    run.follow(lambda e: e.get("host") == SECOND)
    time.sleep(float(np.random.default_rng().uniform(0.0, 1.0)))
    nodes.lose()
    run.follow(lambda e: e.get("host") == FIRST)
    (folder / "more").unlink()
    run.finish()
    assert {r["host"] for r in run.records()} == {FIRST, SECOND}
    assert run.events[-1]["event"] == "closed"
    assert_nothing_lost_or_repeated(run, folder, kills=1)


def test_a_node_that_does_not_share_the_runs_directory_is_named(nodes: TwoNodes, private: Path) -> None:
    nodes.join(hidden=private)
    run = start_run(nodes, private / "run", private)
    output, errors = run.process.communicate(timeout=PATIENCE)
    nodes.lose()
    assert run.process.returncode == 2, errors
    error = json.loads(output.splitlines()[-1])
    assert error["message"] == f"Node {SECOND} does not see the run's directory {private / 'run'}."
    assert "executor.store" in error["hint"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_node_that_is_lost_ten_times_at_random_costs_no_finished_candidate(
    nodes: TwoNodes, tmp_path: Path, private: Path
) -> None:
    folder, moments = tmp_path / "run", np.random.default_rng(0)
    run = start_run(nodes, folder, private)
    for _ in range(KILLS):
        nodes.join(hidden=private)
        run.follow(lambda e: e.get("host") == SECOND)
        time.sleep(float(moments.uniform(0.0, 2.0)))
        nodes.lose()
    (folder / "more").unlink()
    run.finish()
    assert_nothing_lost_or_repeated(run, folder, kills=KILLS)


def test_the_script_takes_everything_away(tmp_path: Path) -> None:
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    folder = tmp_path / "nothing"
    done = subprocess.run(
        ["bash", str(ROOT / "examples/cluster/two_nodes.sh"), "down", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "holds no cluster" in done.stderr
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout == left
