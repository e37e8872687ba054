"""Commands on a finished run: what they find, print, copy and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner, Result

from autoprune.cli.app import app
from autoprune.report import FrontDocument
from autoprune.storage import write_directory

DIGEST = "0" * 64


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def member(ident: str, accuracy: float, latency_ms: float) -> dict[str, Any]:
    quality = {
        "value": accuracy,
        "low": accuracy - 0.01,
        "high": accuracy + 0.01,
        "n": 100,
        "unit": "image",
        "method": "wilson",
    }
    latency = {
        "ms": latency_ms,
        "low": latency_ms,
        "high": latency_ms,
        "samples": 30,
        "clean": True,
        "polluted_share": 0.0,
    }
    latency |= {"speedup": 10 / latency_ms, "speedup_low": 1.0, "speedup_high": 10.0}
    deployment = {
        "artifact": "model.onnx",
        "sha256": DIGEST,
        "quality": {"test": {"accuracy": quality}},
        "latency": latency,
    }
    sizes = {"parameters": 10, "nonzero": 10, "macs": 10, "bytes": 40, "compressed_bytes": 30}
    place = {"id": ident, "name": f"m-{ident}", "directory": f"front/{ident}", "strategy": "l1", "fidelity": "full"}
    return place | {"feasible": True, "deployments": {"target": deployment}} | sizes


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of two members, with their directories."""
    target = {"runtime": "onnxruntime", "runtime_version": "1", "precision": "fp32", "batch": 32, "threads": 1}
    target |= {"shape": "default", "device": "cpu", "host": "h", "protocol": "interleaved"}
    document = {
        "run": "digits",
        "objectives": [
            {"name": "accuracy", "direction": "max", "unit": "fraction"},
            {"name": "latency_ms", "direction": "min", "unit": "ms", "target": "target", "scale": "log"},
        ],
        "targets": {"target": target},
        "provenance": {
            "autoprune": "0.1.0",
            "versions": {},
            "seed": 0,
            "task_sha256": DIGEST,
            "data_fingerprint": "d",
            "config_sha256": DIGEST,
            "test_reads": 1,
        },
        "evaluations": {"short": 5},
        "wall_seconds": 1.0,
        "cpu_seconds": 1.0,
        "picks": {"fastest": "b"},
        "baseline": member("dense", 0.99, 10.0) | {"directory": None},
        "members": [member("a", 0.98, 5.0), member("b", 0.94, 2.0)],
    }
    directory = tmp_path / "results" / "digits"
    for ident in ("a", "b"):
        write_directory(directory / "front" / ident, {"policy.json": ident.encode()})
    (directory / "config.yaml").write_text("name: digits\ntask: a.py:b\n")
    (directory / "front.json").write_bytes(FrontDocument.model_validate(document).to_bytes())
    return directory


def test_what_json_prints_satisfies_the_published_schema(run: Path) -> None:
    printed = json.loads(call("report", run, "--json").stdout)
    schema = json.loads(call("schema", "front").stdout)
    jsonschema.validate(printed, schema)
    assert printed["run"] == "digits"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(printed | {"members": "none"}, schema)


def test_pick_prints_the_best_member_and_where_it_lies(run: Path) -> None:
    result = call("pick", "digits", "--output", run.parent)
    assert result.exit_code == 0
    assert "m-a" in result.stdout
    assert result.stdout.splitlines()[-1] == str(run / "front" / "a")
    result = call("pick", "digits", "--output", run.parent, "--max-latency-ms", "3", "--json")
    document = json.loads(result.stdout)
    assert (document["member"]["id"], document["directory"]) == ("b", str(run / "front" / "b"))


@pytest.mark.parametrize("given", ["directory", "file", "name"])
def test_a_run_is_found_by_name_directory_or_front_file(run: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    name = {"directory": str(run), "file": str(run / "front.json"), "name": "digits"}[given]
    assert json.loads(call("pick", name, "--json").stdout)["run"] == "digits"


@pytest.mark.parametrize(
    "demand", [["--max-latency-ms", "0.000001"], ["--require", "accuracy>=0.999"], ["--max-drop", "0.001"]]
)
def test_pick_is_exit_4_when_nothing_qualifies(run: Path, demand: list[str]) -> None:
    result = call("pick", run, *demand)
    assert result.exit_code == 4
    assert result.stdout == ""
    assert "hint: Reachable: " in result.stderr


def test_pick_refuses_an_unreadable_demand_and_an_unknown_run(run: Path) -> None:
    assert call("pick", run, "--require", "accuracy>>1").exit_code == 2
    assert call("pick", run, "--require", "acuracy>=0.5").exit_code == 2
    result = call("pick", "digit", "--output", run.parent)
    assert result.exit_code == 2
    assert "Did you mean 'digits'?" in result.stderr
    for name in ("../digits", "/etc", "", "\x1b[2J"):
        result = call("pick", name, "--output", run.parent)
        assert result.exit_code == 2
        assert "\x1b" not in result.stderr


def test_pick_copies_once_and_never_over_something(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "deploy" / "model"
    assert call("pick", run, "--to", target).exit_code == 0
    assert [p.name for p in target.parent.iterdir()] == ["model"]
    assert (target / "policy.json").read_text() == "a"
    (target / "policy.json").write_text("mine")
    assert call("pick", run, "--to", target).exit_code == 73
    assert (target / "policy.json").read_text() == "mine"
    (tmp_path / "file").touch()
    assert call("pick", run, "--to", tmp_path / "file").exit_code == 73
    (tmp_path / "empty").mkdir()
    assert call("pick", run, "--to", tmp_path / "empty").exit_code == 0


def test_pick_refuses_an_altered_model(run: Path, tmp_path: Path) -> None:
    (run / "front" / "a" / "policy.json").write_text("x")
    assert call("pick", run, "--to", tmp_path / "model").exit_code == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("trap", ["link inside", "link to outside", "missing"])
def test_pick_copies_nothing_from_outside_the_run(run: Path, tmp_path: Path, trap: str) -> None:
    place = run / "front" / "a"
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    if trap == "link inside":
        (place / "model.onnx").symlink_to(secret / "key")
    else:
        shutil.rmtree(place)
        if trap == "link to outside":
            place.symlink_to(secret)
    result = call("pick", run, "--to", tmp_path / "copy")
    assert result.exit_code == 1
    assert not (tmp_path / "copy").exists()


def test_report_rebuilds_its_tables_from_the_document(run: Path) -> None:
    result = call("report", run)
    assert result.exit_code == 0
    assert "m-a" in result.stdout
    assert "m-b" in (run / "front.csv").read_text()
    assert "m-b" in (run / "front.md").read_text()


def test_a_broken_document_is_one_message(run: Path) -> None:
    (run / "front.json").write_text("{")
    for command in ("pick", "report"):
        result = call(command, run)
        assert result.exit_code == 74
        assert "front.json" in result.stderr


def test_status_reads_a_run_from_outside(run: Path) -> None:
    document = json.loads(call("status", run, "--json").stdout)
    assert (document["schema_version"], document["state"], document["members"]) == ("1.0", "finished", 2)
    assert "digits: finished" in call("status", "digits", "--output", run.parent).stdout


def test_verify_is_exit_1_for_what_is_no_model(tmp_path: Path) -> None:
    result = call("verify", tmp_path, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False
