"""The examples for Kubernetes and SLURM: one against KubeRay's schema, one run with stand-ins for SLURM's commands."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_nodes import ROOT

EXAMPLES = ROOT / "examples"
STAND_INS = {
    "scontrol": "printf 'one\\ntwo\\nthree\\n'",
    "getent": "echo '127.0.0.1 STREAM one'",
    "srun": 'echo "srun $*" >> "$NOTES"; exec sleep 60',
    "autoprune": """trap 'echo "stopped in order" >> "$NOTES"; exit 143' TERM
echo "autoprune $*" >> "$NOTES"
echo "token $(stat -c %a "$RAY_AUTH_TOKEN_PATH") $(wc -c < "$RAY_AUTH_TOKEN_PATH") $RAY_AUTH_MODE" >> "$NOTES"
[ "$2" = short.yaml ] && exit 7
sleep 60 & wait""",
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name("rayjob.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    return document


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "kuberay" / "rayjob.yaml").read_text())
    return document


def test_the_ray_job_fits_the_schema_of_its_definition(schema: dict[str, Any], job: dict[str, Any]) -> None:
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(job)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("entrypiont",), "autoprune"),
        (("rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("rayClusterSpec", "authOptions", "mode"), "password"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "replicas"), "2"),
        (("rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limits", "cpu"), "two"),
    ],
)
def test_the_schema_refuses_what_the_cluster_would(
    schema: dict[str, Any], job: dict[str, Any], path: tuple[Any, ...], value: object
) -> None:
    wrong = copy.deepcopy(job)
    at = wrong["spec"]
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_the_ray_job_asks_for_a_token_and_for_the_ray_that_is_pinned(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")


def test_head_and_workers_share_image_and_volume_and_workers_own_their_cores(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    (worker,) = (group["template"]["spec"] for group in cluster["workerGroupSpecs"])
    assert worker["containers"][0]["image"] == head["containers"][0]["image"]
    assert worker["containers"][0]["volumeMounts"] == head["containers"][0]["volumeMounts"]
    assert worker["volumes"] == head["volumes"]
    assert worker["containers"][0]["resources"]["requests"] == worker["containers"][0]["resources"]["limits"]


def test_the_entrypoint_is_a_command_that_autoprune_takes(job: dict[str, Any]) -> None:
    command = job["spec"]["entrypoint"].split()
    assert command[:2] == ["autoprune", "search"]
    config = EXAMPLES / Path(command[2]).name
    dry = [sys.executable, "-m", "autoprune", "search", str(config), *command[3:], "--dry-run"]
    done = subprocess.run(dry, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    effective = yaml.safe_load(done.stdout)
    assert effective["executor"]["kind"] == "ray"
    assert (effective["executor"]["address"], effective["search"]["workers"]) == ("auto", 8)


def start_slurm_job(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the script with commands that note how they were called."""
    for name, body in STAND_INS.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
    slurm = {
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "[one-three]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "8",
        "NOTES": str(folder / "notes"),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    script = str(EXAMPLES / "slurm" / "autoprune.sbatch")
    return subprocess.Popen(["bash", script, *arguments], env=slurm, stderr=subprocess.PIPE, text=True, process_group=0)


def notes_of(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    """Something that listens where the head of job 17 would."""
    with socket.create_server(("127.0.0.1", 20017)) as server:
        yield server


def end(job: subprocess.Popen[str]) -> None:
    """Do what SLURM does when the script is over."""
    os.killpg(job.pid, signal.SIGKILL)
    assert job.stderr is not None
    job.stderr.close()


def test_the_slurm_job_starts_every_node_with_the_token_and_searches_on_all_cores(
    tmp_path: Path, ear: socket.socket
) -> None:
    job = start_slurm_job(tmp_path, "short.yaml", "--name", "mine")
    assert job.wait(timeout=30) == 7
    end(job)
    notes = notes_of(tmp_path)
    starts = {line.split("--nodelist=")[1].split()[0]: line for line in notes if line.startswith("srun")}
    assert set(starts) == {"one", "two", "three"}
    assert "--head --node-ip-address=127.0.0.1 --port=20017 --num-cpus=8" in starts["one"]
    assert all("--address=127.0.0.1:20017 --num-cpus=8" in starts[host] for host in ("two", "three"))
    assert "autoprune search short.yaml --name mine --cluster 127.0.0.1:20017 --workers 24" in notes
    assert "token 600 64 token" in notes
    assert not list(tmp_path.glob(".ray-token*"))


def test_the_slurm_job_passes_the_notice_of_its_end_on_to_the_search(tmp_path: Path, ear: socket.socket) -> None:
    job = start_slurm_job(tmp_path, "long.yaml")
    deadline = time.monotonic() + 30.0
    while not any(line.startswith("token") for line in notes_of(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=30) == 143
    end(job)
    assert "stopped in order" in notes_of(tmp_path)
    assert not list(tmp_path.glob(".ray-token*"))
