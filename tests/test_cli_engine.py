"""Options that say where candidates are evaluated, what doctor finds of Ray, and a status that is watched."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest
from test_search import load
from typer.testing import CliRunner, Result

from autoprune.cli.app import app
from autoprune.cli.ray_facts import ray_facts
from autoprune.cli.watching import watch_status
from autoprune.config import RunConfig, dump_config
from autoprune.errors import AutopruneError, ConfigError
from autoprune.records import RunLock
from autoprune.search import starting
from autoprune.search.run import run
from autoprune.search.starting import kept_handlers, start_executor, works_apart


def call(*arguments: str | Path, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(app, [str(a) for a in arguments])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text("task: task.py:make_task\nsearch: {workers: 3}\n")
    return path


def effective(config: Path, *options: str, **environ: str) -> dict[str, Any]:
    result = call("search", config, "--dry-run", "--json", *options, **environ)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)["config"]
    return found


def test_options_beat_the_environment_which_beats_the_file(config: Path) -> None:
    assert effective(config)["search"]["workers"] == 3
    environ = {"AUTOPRUNE_SEARCH__WORKERS": "4"}
    assert effective(config, **environ)["search"]["workers"] == 4
    assert effective(config, "--workers", "5", **environ)["search"]["workers"] == 5
    assert effective(config, "--set", "search.workers=6", **environ)["search"]["workers"] == 6


def test_shares_of_a_host_reach_the_executor(config: Path) -> None:
    found = effective(config, "--cluster", "auto", "--gpus-per-worker", "0.25", "--cpus-per-worker", "2")["executor"]
    assert (found["gpus_per_worker"], found["cpus_per_worker"]) == (0.25, 2.0)
    assert "count on a cluster only" in call("search", config, "--dry-run", "--gpus-per-worker", "1").stderr


@pytest.mark.parametrize("address", ["auto", "10.77.0.1:6390", "[::1]:6379"])
def test_a_cluster_makes_the_engine_ray(config: Path, address: str) -> None:
    found = effective(config, "--cluster", address)["executor"]
    assert (found["kind"], found["address"]) == ("ray", address)


def test_a_cluster_leaves_the_engine_tune(config: Path) -> None:
    for given in (["--set", "executor.kind=tune"], []):
        environ = {} if given else {"AUTOPRUNE_EXECUTOR__KIND": "tune"}
        found = effective(config, "--cluster", "auto", *given, **environ)["executor"]
        assert (found["kind"], found["address"]) == ("tune", "auto")


@pytest.mark.parametrize("options", [["--workers", "0"], ["--gpus-per-worker", "-1"], ["--cluster", ""]])
def test_options_out_of_range_are_exit_2(config: Path, options: list[str]) -> None:
    result = call("search", config, "--dry-run", *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({}, False),
        ({"search": {"workers": 2}}, True),
        ({"executor": {"kind": "ray"}}, True),
        ({"executor": {"timeout_s": 5}}, True),
        ({"executor": {"memory_mb": 500}}, True),
    ],
)
def test_one_worker_without_limits_works_in_the_drivers_process(settings: dict[str, Any], apart: bool) -> None:
    assert works_apart(RunConfig(task="a.py:b", **settings)) is apart


def test_an_engine_that_cannot_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Setup:
        config = RunConfig(task="a.py:b", executor={"kind": "ray"})

    def broken(*_: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(starting, "make_executor", broken)
    with pytest.raises(AutopruneError, match="'ray' cannot be started: ConnectionError: no route") as raised:
        start_executor(cast("Any", Setup()), cast("Any", None))
    assert "autoprune doctor" in raised.value.hint


def test_handlers_that_a_library_replaces_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


class Refusing:
    """An engine that fails at the first job."""

    free = 1
    closed = 0

    def submit(self, job: object) -> None:
        raise AutopruneError("the cluster is gone")

    def collect(self) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed += 1


def test_the_engine_is_closed_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Refusing()
    monkeypatch.setattr(starting, "make_executor", lambda *_: engine)
    with pytest.raises(AutopruneError, match="the cluster is gone"):
        run(load(tmp_path, "latency.targets=[torch-eager-fp32-b4-t1]", sampler="random"))
    assert engine.closed == 1


def test_doctor_tells_of_ray_without_a_token(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 64)
    token.chmod(0o644)
    secret = "b" * 64
    base = {"HOME": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}
    assert ray_facts(None, base) == {
        "cluster": None,
        "reachable": None,
        "authentication": "as Ray decides",
        "token": "none",
    }
    given = ray_facts(None, base | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secret})
    assert (given["authentication"], given["token"]) == ("token", "RAY_AUTH_TOKEN")
    named = ray_facts(None, base | {"RAY_AUTH_TOKEN_PATH": str(token)})["token"]
    assert "others may read it" in named
    assert "cannot be used" in ray_facts(None, base | {"RAY_AUTH_TOKEN_PATH": str(token) + "x"})["token"]
    for found in (given, named):
        assert secret not in str(found)
        assert "a" * 64 not in str(found)


def test_doctor_tells_why_a_cluster_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from autoprune.search.executors import joining

    def refused(address: str) -> None:
        raise ConfigError(f"{address} demands a token.", hint="Set RAY_AUTH_MODE=token.")

    monkeypatch.setattr(joining, "refuse_unreachable_cluster", refused)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    document = json.loads(call("doctor", "--cluster", "10.0.0.1:6379", "--json").stdout)
    assert document["ray"]["reachable"] == "no: 10.0.0.1:6379 demands a token. Set RAY_AUTH_MODE=token."
    assert document["gate"]["usable"] == "yes"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.2:6379")
    assert ray_facts(None, {"RAY_TMPDIR": str(tmp_path)})["cluster"] == "auto"


def test_a_watched_status_ends_with_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(RunConfig(task="a.py:b", name="watched")))
    free = threading.Event()

    def hold() -> None:
        with RunLock(tmp_path):
            free.wait(20.0)

    holder = threading.Thread(target=hold)
    holder.start()
    while not (tmp_path / "run.lock").exists():
        time.sleep(0.01)
    timer = threading.Timer(0.3, free.set)
    timer.start()
    found = watch_status(tmp_path, every_s=0.05)
    holder.join()
    timer.join()
    assert found.state == "stopped"
    assert "watched: running" in capsys.readouterr().err


def test_status_is_watched_or_one_document_but_not_both(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(RunConfig(task="a.py:b")))
    assert call("status", tmp_path, "--watch", "--json").exit_code == 2
    assert call("status", tmp_path, "--watch").exit_code == 0
